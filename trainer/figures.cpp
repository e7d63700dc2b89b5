#include "trainer/figures.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace facetrain {

FigureName split_figure(const std::string& name) {
  // Figures are "accuracy", "auc", "tar@far=0.001": before their '@' they have no dot.
  size_t dot = name.substr(0, name.rfind('@')).rfind('.');
  if (dot == std::string::npos) dot = name.rfind('.');
  if (dot == std::string::npos) return {"", name};
  return {name.substr(0, dot), name.substr(dot + 1)};
}

void sort_figures(std::vector<std::string>& figures) {
  std::ranges::sort(figures, {}, [](const std::string& name) {
    return std::pair(name == "accuracy" ? 0 : name.size(), name);
  });
}

bool lower_is_better(const std::string& figure) {
  const std::string name = split_figure(figure).figure;
  return name == "eer" || name.starts_with("error");
}

bool is_better(const std::string& figure, double value, double best) {
  if (std::isnan(value)) return false;
  return std::isnan(best) || (lower_is_better(figure) ? value < best : value > best);
}

}  // namespace facetrain
