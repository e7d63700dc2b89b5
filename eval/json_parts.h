// Parts that the protocols' JSON objects share.
#pragma once

#include <array>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/curves.h"

namespace facetrain {

// null for what is not there, and for an empty text.
nlohmann::json or_null(const std::optional<double>& value);
nlohmann::json or_null(const std::string& text);

// {<false_accepts>: [..], <true_accepts>: [..], cosine: [..]} with the names given; the cosine of
// the first point is null. null for a curve without points.
nlohmann::json curve_json(const std::vector<CurvePoint>& curve, const std::string& false_accepts,
                          const std::string& true_accepts);

// {low: -1, high: 1, <genuine>: [..], <impostor>: [..]}.
nlohmann::json histogram_json(const std::string& genuine,
                              const std::array<int64_t, kHistogramBins>& genuine_counts,
                              const std::string& impostor,
                              const std::array<int64_t, kHistogramBins>& impostor_counts);

}  // namespace facetrain
