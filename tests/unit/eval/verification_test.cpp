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
#include "tests/support/error_of.h"

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

TEST(Verification, ReproducesThePublishedReference) {
  const fs::path folder =
      fs::path(FACETRAIN_SOURCE_DIR) / "../shared/data/lfw-reference-embeddings";
  if (!fs::exists(folder))
    GTEST_SKIP() << "no " << folder << ": the LFW reference embeddings are not in this checkout";
  const Embeddings embeddings = read_embeddings(folder / "embeddings.npy");
  const auto result =
      verify_pairs(embeddings.rows, read_csv_pairs(folder / "pairs.csv", embeddings.rows.size(0)));
  std::string text = to_text(result);
  for (const char* line : {"\nEER", "\nval", "\nnorm"}) {  // what expected.txt does not have
    const auto begin = text.find(line) + 1;
    ASSERT_NE(begin, 0u) << line;
    text.erase(begin, text.find('\n', begin) + 1 - begin);
  }
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

TEST(Verification, ValByHand) {
  // Fold 1: same at 20 and 70 degrees, different at 50. Fold 2: same at 60, different at 90.
  const at::Tensor rows = at_angles({0, 20, 70, 50, 60, 90});
  const PairList pairs = {
      {1, 0, 1, true}, {1, 0, 2, true}, {1, 0, 3, false}, {2, 0, 4, true}, {2, 0, 5, false}};
  const auto result = verify_pairs(rows, pairs);
  ASSERT_TRUE(result.val);
  const auto& folds = result.val->folds;
  ASSERT_EQ(folds.size(), 2u);
  // The only impostor of fold 2 stands at 2: FAR is 0 up to t = 2 (or 1.999 by rounding) and 1 from
  // the next t on, so it is 0.001 a thousandth of the way.
  EXPECT_NEAR(folds[0].threshold, 2.000001, 1.1e-3);
  EXPECT_NEAR(folds[1].threshold, 0.714001, 1e-9);  // 2 - 2 cos 50 degrees = 0.71442
  EXPECT_DOUBLE_EQ(*folds[0].val, 1);
  EXPECT_DOUBLE_EQ(*folds[0].far, 1);
  EXPECT_DOUBLE_EQ(*folds[1].val, 0);  // 60 degrees: 1
  EXPECT_DOUBLE_EQ(*folds[1].far, 0);
  EXPECT_DOUBLE_EQ(result.val->val, 0.5);
  EXPECT_DOUBLE_EQ(result.val->deviation, 0.5);
  EXPECT_DOUBLE_EQ(result.val->far, 0.5);
}

TEST(Verification, ValOnAPlateauAndBeyondReach) {
  // Fold 1: one of a thousand impostors at 40 degrees, the others at 80. FAR is exactly 0.001 from
  // 0.468 on, and the last such threshold counts: 1.652, as 2 - 2 cos 80 degrees = 1.65270.
  const at::Tensor rows = at_angles({0, 40, 80, 75, 180});
  PairList pairs = {{1, 0, 1, false}, {2, 0, 3, true}, {2, 0, 4, false}};
  for (int k = 0; k < 999; ++k) pairs.push_back({1, 0, 2, false});
  const auto result = verify_pairs(rows, pairs);
  ASSERT_EQ(result.val->folds.size(), 2u);
  EXPECT_DOUBLE_EQ(result.val->folds[1].threshold, 1.652);
  EXPECT_DOUBLE_EQ(*result.val->folds[1].val, 1);  // 75 degrees: 1.482
  // Fold 2's impostor is as far away as can be: no threshold accepts it.
  EXPECT_DOUBLE_EQ(result.val->folds[0].threshold, 0);
  EXPECT_FALSE(result.val->folds[0].val);  // it has no same pair
  EXPECT_DOUBLE_EQ(*result.val->folds[0].far, 0);
  EXPECT_DOUBLE_EQ(result.val->val, 1);  // of the one fold that has it
  EXPECT_TRUE(to_json(result)["val"]["folds"][0]["val"].is_null());
}

TEST(Verification, TheHardestPairsComeFirst) {
  const at::Tensor rows = at_angles({0, 20, 80, 50, 85});
  const PairList pairs = {{1, 0, 1, true}, {1, 0, 3, false}, {2, 0, 2, true}, {2, 4, 0, false}};
  const auto result = verify_pairs(rows, pairs, {"a", "b", "c", "d", "e"});
  ASSERT_EQ(result.hardest.size(), 4u);
  EXPECT_TRUE(result.hardest[0].same);
  EXPECT_EQ(result.hardest[0].second_name, "c");  // 80 degrees
  EXPECT_FALSE(result.hardest[2].same);
  EXPECT_EQ(result.hardest[2].second, 3);  // 50 degrees
  EXPECT_NEAR(result.hardest[2].cosine, std::cos(50 * M_PI / 180), 1e-6);
  const auto json = to_json(result);
  EXPECT_EQ(json["hardest"]["different"][1]["rows"], (std::vector<int64_t>{4, 0}));
  EXPECT_EQ(json["hardest"]["different"][1]["names"], (std::vector<std::string>{"e", "a"}));
  EXPECT_EQ(json["roc"]["far"].size(), json["roc"]["tar"].size());
  EXPECT_EQ(json["histogram"]["same"].size(), 100u);
  PairList many;
  for (int k = 0; k < 60; ++k) many.push_back({k % 3, 0, 1 + k % 4, k % 2 == 0});
  EXPECT_EQ(verify_pairs(rows, many).hardest.size(), 2 * kHardPairs);
  EXPECT_TRUE(to_json(verify_pairs(rows, many))["hardest"]["same"][0]["names"][0].is_null());
}

TEST(Verification, MeanNormIsOfTheRowsThatPairsUse) {
  const at::Tensor rows = torch::tensor({{3.0f, 4.0f}, {0.0f, 7.0f}, {100.0f, 0.0f}});
  const PairList pairs = {{1, 0, 1, true}, {2, 1, 0, false}};
  EXPECT_DOUBLE_EQ(verify_pairs(rows, pairs).mean_norm, 6);
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
