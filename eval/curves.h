// What a picture of scores needs: histograms, and curves of few points that keep their shape.
//
// Everything is a function of the scores alone: their order does not matter.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace facetrain {

inline constexpr int64_t kCurvePoints = 500;

// How often scores fall into 100 equal bins of [-1, 1]; a bin takes its lower edge, the last one
// both, and what lies outside (rounding) goes into the bin at that end.
constexpr int64_t kHistogramBins = 100;
std::array<int64_t, kHistogramBins> histogram(const std::vector<double>& scores);

// "Accept when the score is at least `threshold`": the share of impostors and of genuine scores
// that this accepts.
struct CurvePoint {
  double threshold;  // infinity in the first point, which accepts nothing
  double false_accepts, true_accepts;
};

// The receiver operating characteristic at every distinct score, from (0, 0) to (1, 1). Both lists
// ascend and are not empty.
std::vector<CurvePoint> roc_curve(const std::vector<double>& genuine,
                                  const std::vector<double>& impostors);

// At most `points` of a curve, which ascends in both shares: both ends; the corners of its upper
// convex hull (when there are too many, evenly many of them); the rest where the curve reaches
// shares of false accepts that are even in their logarithm and shares of true accepts that are
// even.
std::vector<CurvePoint> thin_curve(const std::vector<CurvePoint>& curve,
                                   int64_t points = kCurvePoints);

}  // namespace facetrain
