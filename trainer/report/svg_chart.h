// Curves as inline SVG: no script, no font, no file. Colours are CSS classes of the page (`c0` ...
// `c5` and `pale`), so that one picture serves light and dark.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace facetrain {

struct ChartLine {
  enum class Style {
    kLine,
    kPale,  // raw values behind a smoothed line
    kArea,  // filled down to 0
    kDots
  };
  std::string name;          // of the legend and of the values under the mouse
  std::vector<double> x, y;  // x ascends; a y that is not finite is a gap
  int colour = 0;            // 0 ... kColours - 1
  Style style = Style::kLine;
};
inline constexpr int kColours = 6;

struct ChartMark {  // a vertical line
  double x;
  std::string label;
};

struct Chart {
  std::string title;    // for those who cannot see it
  std::string x_label;  // "step"
  std::vector<ChartLine> lines;
  std::vector<ChartMark> marks;
  bool log_x = false, log_y = false;                   // values <= 0 are left out
  std::optional<double> low_x, high_x, low_y, high_y;  // limits; what is beyond is cut
  bool hover = true;  // values of all lines in small windows under the mouse
};

// One <svg> element. Lines of more points than it has columns are thinned: each column keeps its
// first, lowest, highest and last value, so that no peak is lost. A chart without a finite point
// says so.
std::string draw(const Chart& chart);

constexpr size_t kFewPoints = 40;  // of a line: each gets a dot, and nothing is smoothed

// A line and its smoothed values: raw pale, smoothed strong; the line alone when it is short.
// `log`: for a logarithmic axis, so the mean is the geometric one.
std::vector<ChartLine> smoothed_lines(const std::string& name, const std::vector<double>& x,
                                      const std::vector<double>& y, bool log = false);

// Exponential moving average over about a fortieth of the curve, without the pull of its start;
// values that are not finite are passed over and leave gaps.
std::vector<double> smooth(const std::vector<double>& y);

// At most four points a column of [low, high] (see draw); returns x and y.
std::pair<std::vector<double>, std::vector<double>> thin(const std::vector<double>& x,
                                                         const std::vector<double>& y, double low,
                                                         double high, int columns);

}  // namespace facetrain
