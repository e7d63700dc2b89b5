// Counter-based randomness: bijections, uniformity, order of keys, and the draws of a step.
#include "core/random.h"

#include <gtest/gtest.h>

#include <array>
#include <set>
#include <vector>

#include "core/check.h"
#include "core/step_context.h"
#include "core/torch.h"

namespace facetrain {
namespace {

TEST(Random, PermutationsAreBijections) {
  std::vector<int64_t> sizes{4095, 4096, 4097, 65536, 100'003};
  for (int64_t size = 1; size <= 260; ++size) sizes.push_back(size);
  for (const int64_t size : sizes)
    for (const uint64_t key : {0ull, 1ull, 0xffffffffffffffffull}) {
      const Permutation permutation(size, key);
      std::vector<bool> seen(static_cast<size_t>(size));
      for (int64_t i = 0; i < size; ++i) {
        const int64_t image = permutation(i);
        ASSERT_TRUE(image >= 0 && image < size && !seen[static_cast<size_t>(image)]) << size;
        seen[static_cast<size_t>(image)] = true;
      }
    }
  const Permutation huge(int64_t{1} << 40, 5);
  std::set<int64_t> images;
  for (int64_t i = 0; i < 10'000; ++i) images.insert(huge(i));
  EXPECT_EQ(images.size(), 10'000u);
}

TEST(Random, PermutationsMoveEveryElementEverywhere) {
  // Where element 0 of 20 goes over 20,000 keys: chi-square with 19 degrees of freedom, 99.99 %
  // below 50.
  std::array<int, 20> counts{};
  for (uint64_t key = 0; key < 20'000; ++key)
    ++counts[static_cast<size_t>(Permutation(20, random_key(9, key))(0))];
  double chi_square = 0;
  for (const int count : counts) chi_square += (count - 1000.0) * (count - 1000.0) / 1000.0;
  EXPECT_LT(chi_square, 50);
}

TEST(Random, KeysDependOnOrderAndEveryWord) {
  EXPECT_NE(random_key(1, 2), random_key(2, 1));
  EXPECT_NE(random_key(1), random_key(1, 0));
  EXPECT_NE(random_key(1, 0), random_key(1, 0, 0));
  EXPECT_NE(name_key("layer1"), name_key("layer2"));
  EXPECT_NE(name_key(""), name_key("a"));
  std::set<uint64_t> keys;
  for (uint64_t a = 0; a < 100; ++a)
    for (uint64_t b = 0; b < 100; ++b) keys.insert(random_key(a, b));
  EXPECT_EQ(keys.size(), 10'000u);
}

TEST(Random, DrawsAreUniformAndNormal) {
  Random random(random_key(3));
  constexpr int kDraws = 200'000;
  std::array<int, 64> bins{};
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double u = random.uniform();
    ASSERT_TRUE(u >= 0 && u < 1);
    ++bins[static_cast<size_t>(u * 64)];
    const double z = random.normal();
    sum += z;
    squares += z * z;
  }
  double chi_square = 0;
  for (const int count : bins) chi_square += std::pow(count - kDraws / 64.0, 2) / (kDraws / 64.0);
  EXPECT_LT(chi_square, 120);  // 63 degrees of freedom, 99.998 %
  EXPECT_NEAR(sum / kDraws, 0, 4 / std::sqrt(kDraws));
  EXPECT_NEAR(squares / kDraws, 1, 4 * std::sqrt(2.0 / kDraws));
  std::array<int, 7> below{};
  for (int i = 0; i < 70'000; ++i) ++below[static_cast<size_t>(random.below(7))];
  for (const int count : below) EXPECT_NEAR(count, 10'000, 400);
  EXPECT_EQ(Random(5).below(1), 0);
}

TEST(StepContext, DrawsFollowThePositionsNotTheRows) {
  const auto positions = torch::tensor({5, 1'000'000'007, 0, 42}, torch::kLong);
  const StepScope scope({.seed = 11, .step = 3, .view = 1, .positions = positions});
  const auto draws = sample_uniform(33, "layer");
  ASSERT_EQ(draws.sizes(), torch::IntArrayRef({4, 33}));
  {
    const StepScope other(
        {.seed = 11, .step = 99, .view = 1, .positions = positions.slice(0, 1, 3)});
    EXPECT_TRUE(sample_uniform(33, "layer").equal(draws.slice(0, 1, 3)));
    EXPECT_TRUE(sample_uniform(8, "layer").equal(draws.slice(0, 1, 3).slice(1, 0, 8)));
  }
  EXPECT_TRUE(sample_uniform(33, "layer").equal(draws));  // scopes nest
  EXPECT_FALSE(sample_uniform(33, "layer2").equal(draws));
  // The definition: word k of Random(random_key(seed, position, view, name)), its top 24 bits.
  Random random(random_key(11, 1'000'000'007, 1, name_key("layer")));
  for (int k = 0; k < 33; ++k)
    EXPECT_EQ(draws[1][k].item<float>(), static_cast<float>(random.next() >> 40) * 0x1.0p-24f);
}

TEST(StepContext, TensorOperationsGiveTheSameNumbers) {
  const auto positions = torch::tensor({0, 7, 1 << 20, 123456789}, torch::kLong);
  for (const uint64_t seed : {0ull, 0x8000000000000001ull})
    for (const int64_t view : {0, 3}) {
      const StepScope scope({.seed = seed, .view = view, .positions = positions});
      EXPECT_TRUE(sample_uniform(100, "a.b").equal(sample_uniform_by_tensors(100, "a.b")));
    }
}

TEST(StepContext, StepDrawsDependOnSeedStepAndName) {
  const auto draw = [](uint64_t seed, int64_t step, const char* name) {
    const StepScope scope({.seed = seed, .step = step, .positions = {}});
    return step_uniform(1000, name, torch::kCPU);
  };
  const auto first = draw(1, 2, "mask");
  EXPECT_TRUE(first.equal(draw(1, 2, "mask")));
  EXPECT_FALSE(first.equal(draw(1, 3, "mask")));
  EXPECT_FALSE(first.equal(draw(2, 2, "mask")));
  EXPECT_FALSE(first.equal(draw(1, 2, "other")));
  EXPECT_NEAR(first.mean().item<double>(), 0.5, 4 / std::sqrt(12 * 1000.0));
  EXPECT_TRUE(first.lt(1).all().item<bool>());
  EXPECT_THROW(sample_uniform(1, "outside"), Error);
}

}  // namespace
}  // namespace facetrain
