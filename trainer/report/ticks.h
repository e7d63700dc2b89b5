// Where the axes of a chart have their marks, and what stands beside them.
#pragma once

#include <string>
#include <vector>

namespace facetrain {

struct Tick {
  double at;
  std::string label;
};

// Multiples of 1, 2 or 5 times a power of ten within [low, high], about `count` of them.
std::vector<Tick> linear_ticks(double low, double high, int count);
// Powers of ten within [low, high], thinned to about `count`; where there are fewer than two, also
// 2 and 5 times them. 0 < low <= high.
std::vector<Tick> log_ticks(double low, double high, int count);

// A value of an axis that goes up to `largest`, which chooses the unit ("k", "M", "G"), with as
// many digits as tell steps of `step` apart: (500000, 500000, 2e6) -> "0.5M", (0.05, 0.01, 1) ->
// "0.05".
std::string tick_label(double value, double step, double largest);

}  // namespace facetrain
