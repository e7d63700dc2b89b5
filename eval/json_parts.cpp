#include "eval/json_parts.h"

#include <cmath>
#include <nlohmann/json.hpp>

namespace facetrain {

nlohmann::json or_null(const std::optional<double>& value) {
  return value ? nlohmann::json(*value) : nlohmann::json();
}

nlohmann::json or_null(const std::string& text) {
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}

nlohmann::json curve_json(const std::vector<CurvePoint>& curve, const std::string& false_accepts,
                          const std::string& true_accepts) {
  if (curve.empty()) return {};
  nlohmann::json json;
  for (const auto& point : curve) {
    json[false_accepts].push_back(point.false_accepts);
    json[true_accepts].push_back(point.true_accepts);
    json["cosine"].push_back(std::isfinite(point.threshold) ? nlohmann::json(point.threshold)
                                                            : nlohmann::json());
  }
  return json;
}

nlohmann::json histogram_json(const std::string& genuine,
                              const std::array<int64_t, kHistogramBins>& genuine_counts,
                              const std::string& impostor,
                              const std::array<int64_t, kHistogramBins>& impostor_counts) {
  return {{"low", -1}, {"high", 1}, {genuine, genuine_counts}, {impostor, impostor_counts}};
}

}  // namespace facetrain
