#include "data/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/support/data_support.h"

namespace facetrain {
namespace {

using testing::HasSubstr;

Config named(const std::string& yaml) { return Config::parse(yaml); }

SamplerInput input(std::vector<int64_t> sizes, std::vector<double> weights = {}, int64_t batch = 2,
                   int64_t per_identity = 2) {
  SamplerInput result;
  for (const int64_t size : sizes)
    result.sets.push_back(std::make_shared<MemorySource>(size, per_identity));
  result.weights = std::move(weights);
  result.seed = 11;
  result.batch_size = batch;
  return result;
}

TEST(Shuffle, EachEpochIsAnotherPermutationOfAllSets) {
  const auto sampler = Samplers::get().create(named("name: shuffle"), input({5, 8}));
  ASSERT_EQ(sampler->epoch_size(), 13);
  std::vector<std::vector<std::pair<int64_t, int64_t>>> epochs(3);
  for (int64_t p = 0; p < 39; ++p) {
    const Draw draw = sampler->at(p);
    epochs[static_cast<size_t>(p / 13)].emplace_back(draw.set, draw.index);
  }
  EXPECT_NE(epochs[0], epochs[1]);
  for (auto& epoch : epochs) {
    const std::set<std::pair<int64_t, int64_t>> unique(epoch.begin(), epoch.end());
    EXPECT_EQ(unique.size(), 13u);
    for (const auto& [set, index] : unique) EXPECT_LT(index, set == 0 ? 5 : 8);
  }
}

TEST(Shuffle, DependsOnSeedAndPositionOnly) {
  auto first = input({40}), second = input({40});
  second.seed = 12;
  const auto a = Samplers::get().create(named("name: shuffle"), first);
  const auto b = Samplers::get().create(named("name: shuffle"), first);
  const auto c = Samplers::get().create(named("name: shuffle"), second);
  int64_t differ = 0;
  for (int64_t p = 99; p >= 0; --p) {
    EXPECT_EQ(a->at(p).index, b->at(p).index);
    differ += a->at(p).index != c->at(p).index;
  }
  EXPECT_GT(differ, 80);
}

// After any number of positions each set has had its share, within one sample a set; every set is
// dealt out in whole permutations of its own.
TEST(Shuffle, JoinedSetsKeepTheirShares) {
  const std::vector<double> weights{0.5, 3, 1.5};
  const std::vector<int64_t> sizes{7, 30, 12};
  const auto sampler = Samplers::get().create(named("name: shuffle"), input(sizes, weights));
  std::vector<int64_t> had(3, 0);
  std::vector<std::map<std::pair<int64_t, int64_t>, int64_t>> seen(3);
  for (int64_t p = 0; p < 5000; ++p) {
    const Draw draw = sampler->at(p);
    const auto set = static_cast<size_t>(draw.set);
    EXPECT_EQ((++seen[set][{had[set]++ / sizes[set], draw.index}]), 1);
    for (size_t s = 0; s < 3; ++s)
      ASSERT_NEAR(static_cast<double>(had[s]), weights[s] / 5 * static_cast<double>(p + 1), 3.0);
  }
  EXPECT_EQ(had[0], 500);
  EXPECT_EQ(had[1], 3000);
  EXPECT_EQ(had[2], 1500);
  const Draw far = sampler->at((int64_t{1} << 40) + 12345);
  EXPECT_LT(far.index, sizes[static_cast<size_t>(far.set)]);
}

TEST(Shuffle, ReplacementIsTheNextOfThePermutation) {
  for (const auto& weights : {std::vector<double>{}, std::vector<double>{1, 2}}) {
    const auto sampler = Samplers::get().create(named("name: shuffle"), input({6, 6}, weights));
    std::set<std::pair<int64_t, int64_t>> met;
    const Draw draw = sampler->at(4);
    met.insert({draw.set, draw.index});
    for (int64_t attempt = 1; attempt < 6; ++attempt) {
      const Draw other = sampler->replacement(4, attempt);
      EXPECT_TRUE(met.insert({other.set, other.index}).second) << attempt;
      EXPECT_TRUE(weights.empty() || other.set == draw.set);
    }
  }
  const auto plain = Samplers::get().create(named("name: shuffle"), input({12}));
  EXPECT_EQ(plain->replacement(4, 1).index, plain->at(5).index);
}

TEST(Sequential, IsTheOrderOfTheData) {
  const auto sampler = Samplers::get().create(named("name: sequential"), input({3, 2}));
  const std::vector<std::pair<int64_t, int64_t>> wanted{{0, 0}, {0, 1}, {0, 2}, {1, 0}, {1, 1}};
  for (int64_t p = 0; p < 12; ++p) {
    const Draw draw = sampler->at(p);
    EXPECT_EQ(std::make_pair(draw.set, draw.index), wanted[static_cast<size_t>(p % 5)]);
  }
}

TEST(Balanced, EachBatchHasPIdentitiesWithKImages) {
  // 7 identities: 0 ... 3 of set 0 with 5 images (the last with 2), 4 ... 6 of set 1.
  const auto data = input({17, 12}, {}, 6, 5);
  const auto sampler =
      Samplers::get().create(named("{name: balanced, identities: 3, images: 2}"), data);
  EXPECT_EQ(sampler->epoch_size(), 29);
  std::map<std::pair<int64_t, int64_t>, int64_t> uses, person_uses;
  for (int64_t batch = 0; batch < 400; ++batch) {
    std::map<std::pair<int64_t, int64_t>, std::set<int64_t>> people;
    for (int64_t row = 0; row < 6; ++row) {
      const Draw draw = sampler->at(batch * 6 + row);
      const std::pair<int64_t, int64_t> person{
          draw.set, data.sets[static_cast<size_t>(draw.set)]->identity(draw.index)};
      people[person].insert(draw.index);
      ++uses[{draw.set, draw.index}];
      if (row % 2 == 0) ++person_uses[person];
    }
    EXPECT_EQ(people.size(), 3u);
    for (const auto& [person, images] : people) EXPECT_EQ(images.size(), 2u);
  }
  EXPECT_EQ(uses.size(), 29u) << "every image is drawn";
  for (const auto& [person, count] : person_uses)
    EXPECT_NEAR(static_cast<double>(count), 1200.0 / 7, 25);
}

TEST(Balanced, ReplacementStaysWithTheIdentityWhileItCan) {
  const auto data = input({12}, {}, 4, 3);
  const auto sampler = Samplers::get().create(named("{name: balanced, images: 2}"), data);
  for (int64_t p = 0; p < 40; ++p) {
    const int64_t person = sampler->at(p).index / 3;
    std::set<int64_t> met{sampler->at(p).index};
    for (int64_t attempt = 1; attempt < 3; ++attempt) {
      EXPECT_EQ(sampler->replacement(p, attempt).index / 3, person);
      EXPECT_TRUE(met.insert(sampler->replacement(p, attempt).index).second);
    }
    EXPECT_NE(sampler->replacement(p, 3).index / 3, person);
  }
}

TEST(Samplers, BadOptionsSayWhatToDo) {
  const auto complaint = [](const std::string& yaml, const SamplerInput& data) {
    return error_of([&] { Samplers::get().create(named(yaml), data); });
  };
  EXPECT_THAT(complaint("name: shuffle", input({5}, {}, 6)),
              HasSubstr("data.batch_size from 1 to the 5"));
  EXPECT_THAT(complaint("name: shuffle", input({5, 5}, {1})), HasSubstr("wanted 2 weights"));
  EXPECT_THAT(complaint("name: shuffle", input({5, 5}, {1, 0})), HasSubstr("weight above 0"));
  EXPECT_THAT(complaint("name: shufle", input({5})), HasSubstr("did you mean 'shuffle'"));
  EXPECT_THAT(complaint("{name: balanced, identities: 2, images: 2}", input({12}, {}, 6)),
              HasSubstr("2 * 2 = 4"));
  EXPECT_THAT(complaint("{name: balanced, images: 4}", input({12}, {}, 6)), HasSubstr("found 6"));
  EXPECT_THAT(complaint("{name: balanced, images: 1}", input({4}, {}, 4)),
              HasSubstr("4 different identities a batch, the data has 2"));
  EXPECT_THAT(complaint("{name: balanced, images: 2}", input({5}, {}, 2)),
              HasSubstr("two images of each identity, found one for 1 of 3"));
  EXPECT_THAT(complaint("{name: balanced, images: 1}", input({4, 4}, {1, 1}, 2)),
              HasSubstr("weights"));
}

// Every registered sampler: pure, in range, endless, with replacements that differ.
class SamplerConformance : public testing::TestWithParam<std::string> {};

TEST_P(SamplerConformance, KeepsTheContract) {
  const auto data = input({16, 24}, {}, 8, 4);
  const auto a = Samplers::get().create(named("name: " + GetParam()), data);
  const auto b = Samplers::get().create(named("name: " + GetParam()), data);
  EXPECT_EQ(a->epoch_size(), 40);
  for (const int64_t start : {int64_t{0}, int64_t{1000003}, int64_t{1} << 41}) {
    for (int64_t p = start + 50; p >= start; --p) {
      const Draw x = a->at(p), y = b->at(p), other = a->replacement(p, 1);
      EXPECT_EQ(std::tie(x.set, x.index), std::tie(y.set, y.index));
      ASSERT_LT(static_cast<size_t>(x.set), data.sets.size());
      EXPECT_LT(x.index, data.sets[static_cast<size_t>(x.set)]->size());
      EXPECT_FALSE(x.set == other.set && x.index == other.index);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, SamplerConformance, testing::ValuesIn(Samplers::get().names()));

}  // namespace
}  // namespace facetrain
