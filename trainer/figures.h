// Names of an evaluation's figures, "lfw.tar@far=0.1": what the report, the log and the choice of
// the best checkpoint know of them.
#pragma once

#include <string>
#include <vector>

namespace facetrain {

// "lfw.tar@far=0.001" -> "lfw", "tar@far=0.001"; sets may have dots in their names.
struct FigureName {
  std::string set, figure;
};
FigureName split_figure(const std::string& name);

// Into the order of a reader's interest: accuracy, then the short ones (rank5, rank10). Without
// sets.
void sort_figures(std::vector<std::string>& figures);

// Error rates are better when they are lower: figures named `eer`, or whose name begins with
// `error`. With or without the set.
bool lower_is_better(const std::string& figure);

// Whether `value` beats `best`; what is not a number beats nothing.
bool is_better(const std::string& figure, double value, double best);

}  // namespace facetrain
