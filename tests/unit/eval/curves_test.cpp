// Histograms and curves: closed forms, and what thinning must keep.
#include "eval/curves.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/random.h"

namespace facetrain {
namespace {

TEST(Curves, HistogramHasHalfOpenBinsAndTwoClosedEnds) {
  const auto counts = histogram({-1, -0.981, -0.98, 0, 0.01, 0.999, 1, 1.0000001, -1.0000001});
  EXPECT_EQ(counts[0], 3);   // -1, -0.981 and what rounding put below
  EXPECT_EQ(counts[1], 1);   // -0.98 is a lower edge
  EXPECT_EQ(counts[50], 2);  // 0 and 0.01
  EXPECT_EQ(counts[99], 3);
  int64_t all = 0;
  for (const int64_t count : counts) all += count;
  EXPECT_EQ(all, 9);
}

TEST(Curves, RocStepsAtEveryDistinctScore) {
  const auto curve = roc_curve({0.2, 0.5, 0.9}, {0.1, 0.5});
  const std::vector<std::vector<double>> wanted = {
      {0, 0}, {0, 1.0 / 3}, {0.5, 2.0 / 3}, {0.5, 1}, {1, 1}};
  ASSERT_EQ(curve.size(), wanted.size());
  EXPECT_TRUE(std::isinf(curve[0].threshold));
  EXPECT_EQ(curve[2].threshold, 0.5);  // a tie is one step
  for (size_t k = 0; k < wanted.size(); ++k) {
    EXPECT_DOUBLE_EQ(curve[k].false_accepts, wanted[k][0]);
    EXPECT_DOUBLE_EQ(curve[k].true_accepts, wanted[k][1]);
  }
}

std::vector<double> sorted_scores(int64_t count, double mean, uint64_t seed) {
  Random random(random_key(seed));
  std::vector<double> scores;
  for (int64_t k = 0; k < count; ++k) scores.push_back(mean + 0.2 * random.normal());
  std::sort(scores.begin(), scores.end());
  return scores;
}

// The chord of the thin curve at a share of false accepts: the highest line between two of its
// points, the slow way.
double hull_at(const std::vector<CurvePoint>& thin, double far) {
  double highest = 0;
  for (const auto& a : thin)
    for (const auto& b : thin) {
      if (a.false_accepts > far || b.false_accepts < far) continue;
      const double width = b.false_accepts - a.false_accepts;
      const double share = width > 0 ? (far - a.false_accepts) / width : 1;
      highest = std::max(highest, a.true_accepts + share * (b.true_accepts - a.true_accepts));
    }
  return highest;
}

TEST(Curves, ThinningKeepsEndsAndHull) {
  const auto curve = roc_curve(sorted_scores(3000, 0.5, 1), sorted_scores(5000, 0.1, 2));
  ASSERT_GT(curve.size(), 7000u);
  for (const int64_t points : {500, 100}) {
    const auto thin = thin_curve(curve, points);
    EXPECT_LE(static_cast<int64_t>(thin.size()), points);
    EXPECT_GT(static_cast<int64_t>(thin.size()), points / 2);
    EXPECT_EQ(thin.front().true_accepts, 0);
    EXPECT_EQ(thin.back().false_accepts, 1);
    EXPECT_EQ(thin.back().true_accepts, 1);
    for (size_t k = 1; k < thin.size(); ++k) {
      EXPECT_GE(thin[k].false_accepts, thin[k - 1].false_accepts);
      EXPECT_LT(thin[k].threshold, thin[k - 1].threshold);
    }
    // No point of the whole curve stands above the hull of what is left.
    for (size_t k = 0; k < curve.size(); k += 37)
      EXPECT_GE(hull_at(thin, curve[k].false_accepts) + 1e-12, curve[k].true_accepts) << k;
  }
}

TEST(Curves, ThinningKeepsSmallSharesOfFalseAccepts) {
  const auto curve = roc_curve(sorted_scores(3000, 0.5, 3), sorted_scores(5000, 0.1, 4));
  const auto thin = thin_curve(curve);
  // A picture with a logarithmic axis starts at one false accept of 5000.
  const auto below = std::count_if(thin.begin(), thin.end(), [](const CurvePoint& point) {
    return point.false_accepts > 0 && point.false_accepts <= 0.01;
  });
  EXPECT_GE(below, 20);
}

TEST(Curves, AFewPointsStayAsTheyAre) {
  const auto curve = roc_curve({0.2, 0.5, 0.9}, {0.1, 0.5});
  EXPECT_EQ(thin_curve(curve).size(), curve.size());
  EXPECT_EQ(thin_curve(curve, 2).size(), 2u);
  EXPECT_EQ(thin_curve(curve, 2).back().true_accepts, 1);
}

}  // namespace
}  // namespace facetrain
