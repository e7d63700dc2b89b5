// The options of the classifier over several soft-max margins: what a test sets, and the composite
// written from the formulas with all logits in memory. Shared by the tests on a CPU and on a GPU.
#pragma once

#include <string>
#include <vector>

#include "tests/unit/losses/classifier_problem.h"

namespace facetrain::testing {

struct OptionValues {
  double smoothing = 0, gamma = 0, filter = 0, whisker = 0;
  void set(ClassifierOptions& options) const;
};

// A margin under some options: the margin's reference is that of both.
struct OptionCase {
  OptionValues options;
  MarginCase margin;
};
inline void PrintTo(const OptionCase& c, std::ostream* out) { *out << c.margin.name; }

// Every option alone and all at once, over margins that differ in what they bring: one scale or one
// that follows the norm, changed negatives, sub-centres, a bias, a penalty, a pre-pass.
std::vector<OptionCase> option_cases();
OptionCase option_case(const std::string& name);

// The problem with the options of the case.
Problem with_options(Problem problem, const OptionCase& c);

}  // namespace facetrain::testing
