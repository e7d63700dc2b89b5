#include "eval/curves.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

namespace facetrain {
namespace {

// Twice the signed area of a triangle: positive where b lies above the line from a to c.
double bend(const CurvePoint& a, const CurvePoint& b, const CurvePoint& c) {
  return (c.false_accepts - a.false_accepts) * (b.true_accepts - a.true_accepts) -
         (b.false_accepts - a.false_accepts) * (c.true_accepts - a.true_accepts);
}

// Positions of the corners of the upper convex hull, ends included (Andrew's monotone chain).
std::vector<size_t> upper_hull(const std::vector<CurvePoint>& curve) {
  std::vector<size_t> hull;
  for (size_t k = 0; k < curve.size(); ++k) {
    while (hull.size() >= 2 &&
           bend(curve[hull[hull.size() - 2]], curve[hull.back()], curve[k]) <= 0)
      hull.pop_back();
    hull.push_back(k);
  }
  return hull;
}

// The first point whose share reaches each of `count` values.
template <class Share, class Value>
void add_where_reached(const std::vector<CurvePoint>& curve, size_t count, Share share, Value value,
                       std::set<size_t>& kept) {
  for (size_t k = 0; k < count; ++k) {
    const double wanted = value(static_cast<double>(k + 1) / static_cast<double>(count + 1));
    const auto found = std::partition_point(
        curve.begin(), curve.end(), [&](const CurvePoint& point) { return share(point) < wanted; });
    if (found != curve.end()) kept.insert(static_cast<size_t>(found - curve.begin()));
  }
}

}  // namespace

std::array<int64_t, kHistogramBins> histogram(const std::vector<double>& scores) {
  std::array<int64_t, kHistogramBins> counts{};
  for (const double score : scores) {
    const auto bin = static_cast<int64_t>(std::floor((score + 1) / 2 * kHistogramBins));
    ++counts[static_cast<size_t>(std::clamp<int64_t>(bin, 0, kHistogramBins - 1))];
  }
  return counts;
}

std::vector<CurvePoint> roc_curve(const std::vector<double>& genuine,
                                  const std::vector<double>& impostors) {
  std::vector<CurvePoint> curve = {{std::numeric_limits<double>::infinity(), 0, 0}};
  auto g = genuine.rbegin(), i = impostors.rbegin();
  while (g != genuine.rend() || i != impostors.rend()) {
    const double score = g == genuine.rend() ? *i : i == impostors.rend() ? *g : std::max(*g, *i);
    while (g != genuine.rend() && *g >= score) ++g;
    while (i != impostors.rend() && *i >= score) ++i;
    curve.push_back(
        {score, static_cast<double>(i - impostors.rbegin()) / static_cast<double>(impostors.size()),
         static_cast<double>(g - genuine.rbegin()) / static_cast<double>(genuine.size())});
  }
  return curve;
}

std::vector<CurvePoint> thin_curve(const std::vector<CurvePoint>& curve, int64_t points) {
  if (static_cast<int64_t>(curve.size()) <= points) return curve;
  const auto wanted = static_cast<size_t>(points);
  const std::vector<size_t> hull = upper_hull(curve);
  const size_t corners = std::min(hull.size(), wanted);
  std::set<size_t> kept;
  for (size_t k = 0; k < corners; ++k)
    kept.insert(hull[corners < 2 ? 0 : k * (hull.size() - 1) / (corners - 1)]);
  const size_t rest = wanted - corners;
  const auto lowest =
      std::find_if(curve.begin(), curve.end(), [](const auto& p) { return p.false_accepts > 0; });
  const double low = lowest == curve.end() ? 1 : lowest->false_accepts;
  add_where_reached(
      curve, rest / 2, [](const auto& p) { return p.false_accepts; },
      [&](double part) { return std::pow(low, 1 - part); }, kept);
  add_where_reached(
      curve, rest - rest / 2, [](const auto& p) { return p.true_accepts; },
      [](double part) { return part; }, kept);
  std::vector<CurvePoint> thin;
  for (const size_t k : kept) thin.push_back(curve[k]);
  return thin;
}

}  // namespace facetrain
