// The pairs protocol: a published reference to the last digit, closed forms worked out by hand, and
// degenerate lists.
#include "eval/verification.h"

#include <gtest/gtest.h>
#include <torch/nn/functional/normalization.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/check.h"
#include "core/random.h"
#include "core/torch.h"
#include "eval/embeddings.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

// Unit vectors in the plane at the given angles (degrees).
at::Tensor at_angles(const std::vector<double>& degrees) {
  at::Tensor rows = torch::empty({static_cast<int64_t>(degrees.size()), 2});
  for (size_t k = 0; k < degrees.size(); ++k) {
    rows[k][0] = std::cos(degrees[k] * M_PI / 180);
    rows[k][1] = std::sin(degrees[k] * M_PI / 180);
  }
  return rows;
}

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(Verification, ReproducesThePublishedReference) {
  const fs::path folder =
      fs::path(FACETRAIN_SOURCE_DIR) / "../shared/data/lfw-reference-embeddings";
  if (!fs::exists(folder))
    GTEST_SKIP() << "no " << folder << ": the LFW reference embeddings are not in this checkout";
  const Embeddings embeddings = read_embeddings(folder / "embeddings.npy");
  const auto result =
      verify_pairs(embeddings.rows, read_csv_pairs(folder / "pairs.csv", embeddings.rows.size(0)));
  std::string text = to_text(result);
  const auto eer = text.find("EER");  // the one line that expected.txt does not have
  text.erase(eer, text.find('\n', eer) + 1 - eer);
  std::stringstream expected;
  expected << std::ifstream(folder / "expected.txt").rdbuf();
  EXPECT_EQ(text, expected.str());
}

TEST(Verification, ClosedForm) {
  // Squared distances 2 - 2 cos: 10 degrees 0.030, 30: 0.268, 60: 1, 90: 2.
  const at::Tensor rows = at_angles({0, 10, 30, 60, 90});
  const PairList pairs = {{1, 0, 1, true}, {1, 0, 3, false}, {2, 0, 2, true}, {2, 0, 4, false}};
  const auto result = verify_pairs(rows * 7, pairs);
  ASSERT_EQ(result.folds.size(), 2u);
  // Fold 1 takes the first t above 0.268 of fold 2, fold 2 the first above 0.030 of fold 1.
  EXPECT_DOUBLE_EQ(result.folds[0].threshold, 0.27);
  EXPECT_DOUBLE_EQ(result.folds[1].threshold, 0.04);
  EXPECT_DOUBLE_EQ(result.folds[0].accuracy, 1.0);
  EXPECT_DOUBLE_EQ(result.folds[1].accuracy, 0.5);  // 30 degrees is judged different
  EXPECT_DOUBLE_EQ(result.accuracy, 0.75);
  EXPECT_DOUBLE_EQ(result.deviation, 0.25);  // of the population
  EXPECT_DOUBLE_EQ(result.auc.value(), 1.0);
  EXPECT_DOUBLE_EQ(result.eer.value(), 0.0);
  ASSERT_EQ(result.tar_at_far.size(), 3u);
  for (const auto& at : result.tar_at_far) {
    EXPECT_EQ(at.allowed, 0);
    EXPECT_NEAR(at.threshold, 0.5, 1e-6);  // the hardest impostor stands at 60 degrees
    EXPECT_DOUBLE_EQ(at.tar, 1.0);
  }
}

TEST(Verification, RatesOfOverlappingScores) {
  // Cosines: same 20 and 80 degrees, different 50 and 85 degrees. Of four comparisons same wins
  // three.
  const at::Tensor rows = at_angles({0, 20, 80, 50, 85});
  const PairList pairs = {{1, 0, 1, true}, {1, 0, 3, false}, {2, 0, 2, true}, {2, 0, 4, false}};
  const auto result = verify_pairs(rows, pairs);
  EXPECT_DOUBLE_EQ(result.auc.value(), 0.75);
  // (FAR, FRR): (0, 1), (0, .5), (.5, .5): equal there.
  EXPECT_DOUBLE_EQ(result.eer.value(), 0.5);
  EXPECT_DOUBLE_EQ(result.tar_at_far[0].tar, 0.5);
}

TEST(Verification, TiesCountHalf) {
  const at::Tensor rows = at_angles({0, 40});
  const PairList pairs = {{1, 0, 1, true}, {1, 0, 1, false}, {2, 0, 1, true}, {2, 1, 0, false}};
  const auto result = verify_pairs(rows, pairs);
  EXPECT_DOUBLE_EQ(result.accuracy, 0.5);
  EXPECT_DOUBLE_EQ(result.folds[0].threshold, 0.0);  // all thresholds are equally good: the first
  EXPECT_DOUBLE_EQ(result.auc.value(), 0.5);
  EXPECT_DOUBLE_EQ(result.eer.value(), 0.5);        // halfway on the one segment (0, 1) -> (1, 0)
  EXPECT_DOUBLE_EQ(result.tar_at_far[0].tar, 0.0);  // accepted only above the impostors' score
}

// The protocol once more, written the slow way: every threshold, every fold, every pair.
double naive_accuracy(const at::Tensor& rows, const PairList& pairs) {
  const at::Tensor unit = torch::nn::functional::normalize(rows.to(torch::kDouble));
  std::map<int64_t, std::vector<std::pair<double, bool>>> folds;
  for (const Pair& pair : pairs)
    folds[pair.fold].push_back(
        {(unit[pair.first] - unit[pair.second]).square().sum().item<double>(), pair.same});
  double mean = 0;
  for (const auto& [tested, own] : folds) {
    double best = -1, best_threshold = 0;
    for (int k = 0; k < 400; ++k) {
      int right = 0, all = 0;
      for (const auto& [fold, list] : folds)
        for (const auto& [distance, same] : list)
          if (fold != tested) right += (distance < k * 0.01) == same, ++all;
      if (double(right) / all > best) best = double(right) / all, best_threshold = k * 0.01;
    }
    int right = 0;
    for (const auto& [distance, same] : own) right += (distance < best_threshold) == same;
    mean += double(right) / double(own.size()) / double(folds.size());
  }
  return mean;
}

TEST(Verification, AgreesWithTheSlowWay) {
  torch::Tensor rows = torch::empty({60, 5});
  Random random(random_key(11));
  for (int64_t k = 0; k < rows.numel(); ++k)
    rows.flatten()[k] = random.normal() + (k / 5 % 20) * 0.02;
  PairList pairs;
  for (int64_t k = 0; k < 200; ++k)
    pairs.push_back({3 * random.below(7), random.below(60), random.below(60), random.chance(0.4)});
  EXPECT_NEAR(verify_pairs(rows, pairs).accuracy, naive_accuracy(rows, pairs), 1e-12);
}

TEST(Verification, OneFoldIsCutIntoTen) {
  PairList pairs;
  for (int64_t k = 0; k < 40; ++k) pairs.push_back({1, 0, k < 20 ? 1 : 2, k < 20});
  const auto result = verify_pairs(at_angles({0, 10, 90}), pairs);
  EXPECT_TRUE(result.folds_were_cut);
  EXPECT_EQ(result.folds.size(), 10u);
  EXPECT_DOUBLE_EQ(result.accuracy, 1.0);
  EXPECT_NE(to_text(result).find("cut into 10"), std::string::npos);
  pairs.resize(23);  // three different pairs: three folds, each with one of them
  EXPECT_EQ(verify_pairs(at_angles({0, 10, 90}), pairs).folds.size(), 3u);
}

TEST(Verification, PairsOfOneKindHaveNoRates) {
  const PairList pairs = {{1, 0, 1, true}, {2, 0, 2, true}};
  const auto result = verify_pairs(at_angles({0, 10, 20}), pairs);
  EXPECT_FALSE(result.auc || result.eer);
  EXPECT_TRUE(result.tar_at_far.empty());
  EXPECT_NE(to_text(result).find("undefined: 2 of 2 pairs are 'same'"), std::string::npos);
  EXPECT_TRUE(to_json(result)["auc"].is_null());
}

TEST(Verification, BrokenEmbeddingsAreNamed) {
  at::Tensor rows = at_angles({0, 10, 20});
  const PairList pairs = {{1, 0, 1, true}, {2, 0, 1, false}};
  rows[2][0] = NAN;  // no pair uses it
  EXPECT_NO_THROW(verify_pairs(rows, pairs));
  rows[1][1] = NAN;
  EXPECT_NE(error_of([&] {
              verify_pairs(rows, pairs, {"a.jpg", "b.jpg", "c.jpg"});
            }).find("row 1 (b.jpg) holds NaN"),
            std::string::npos);
  rows[1] = 0;
  EXPECT_NE(error_of([&] { verify_pairs(rows, pairs); }).find("row 1 is all zeros"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              verify_pairs(rows, {{1, 0, 9, true}, {1, 0, 1, true}});
            }).find("row 9"),
            std::string::npos);
  EXPECT_NE(error_of([&] {
              verify_pairs(rows, {{1, 0, 2, true}});
            }).find("at least two pairs"),
            std::string::npos);
}

}  // namespace
}  // namespace facetrain
