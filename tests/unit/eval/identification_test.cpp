// Identification: closed forms worked out by hand, a slow second implementation, ties, ranks.
#include "eval/identification.h"

#include <gtest/gtest.h>
#include <torch/nn/functional/normalization.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "comm/thread_comm.h"
#include "core/random.h"
#include "core/torch.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {

// Vectors in the plane at the given angles (degrees), of several lengths.
at::Tensor at_angles(const std::vector<double>& degrees) {
  at::Tensor rows = torch::empty({static_cast<int64_t>(degrees.size()), 2});
  for (size_t k = 0; k < degrees.size(); ++k) {
    const double length = 1 + static_cast<double>(k % 3);
    rows[static_cast<int64_t>(k)][0] = length * std::cos(degrees[k] * M_PI / 180);
    rows[static_cast<int64_t>(k)][1] = length * std::sin(degrees[k] * M_PI / 180);
  }
  return rows;
}

Identification on_one_rank(const LabelledRows& gallery, const LabelledRows& probes,
                           const SearchOptions& options = {}) {
  Identification result;
  run_thread_ranks(1,
                   [&](Communicator& comm) { result = identify(gallery, probes, options, comm); });
  return result;
}

std::string error_on_one_rank(const LabelledRows& gallery, const LabelledRows& probes,
                              const SearchOptions& options = {}) {
  std::string message;
  run_thread_ranks(1, [&](Communicator& comm) {
    message = error_of([&] { identify(gallery, probes, options, comm); });
  });
  return message;
}

const LabelledRows kGallery{at_angles({0, 40, 90}), {"Ann", "Bob", "Cy"}, {"a", "b", "c"}};

TEST(Identification, ClosedSetByHand) {
  // Ann at 10: rank 1. Ann at 30: Bob is nearer, rank 2. Cy at 0: both others are nearer, rank 3.
  const LabelledRows probes{at_angles({10, 30, 0}), {"Ann", "Ann", "Cy"}, {"p", "q", "r"}};
  const auto result = on_one_rank(kGallery, probes, {.ranks = {1, 2, 3, 50}, .fpir = {}});
  EXPECT_EQ(result.gallery, 3);
  EXPECT_EQ(result.known, 3);
  ASSERT_EQ(result.rates.size(), 4u);
  EXPECT_DOUBLE_EQ(result.rates[0].second, 1.0 / 3);
  EXPECT_DOUBLE_EQ(result.rates[1].second, 2.0 / 3);
  EXPECT_DOUBLE_EQ(result.rates[2].second, 1);
  EXPECT_DOUBLE_EQ(result.rates[3].second, 1);  // more than there are identities
  EXPECT_EQ(result.cmc.size(), 3u);
  ASSERT_EQ(result.hardest.size(), 2u);  // by how far the other one is ahead
  EXPECT_EQ(result.hardest[0].name, "r");
  EXPECT_EQ(result.hardest[0].rank, 3);
  EXPECT_EQ(result.hardest[0].best_identity, "Ann");
  EXPECT_NEAR(result.hardest[0].best_score, 1, 1e-7);
  EXPECT_NEAR(result.hardest[0].score, 0, 1e-7);
  EXPECT_EQ(result.hardest[1].best_name, "b");
  EXPECT_NEAR(result.hardest[1].best_score, std::cos(10 * M_PI / 180), 1e-7);
}

TEST(Identification, OpenSetByHand) {
  // Known: 5, 20 degrees off at rank 1, one at rank 2. Unknown: best entries 15, 25, 30, 35 off.
  const LabelledRows probes{
      at_angles({5, 60, 30, 105, 115, 120, 125}), {"Ann", "Bob", "Ann", "x", "x", "y", "z"}, {}};
  const auto result = on_one_rank(kGallery, probes, {.ranks = {1}, .fpir = {0.0, 0.24, 0.25, 0.5}});
  EXPECT_EQ(result.known, 3);
  EXPECT_EQ(result.unknown, 4);
  EXPECT_FALSE(result.mates_removed);
  EXPECT_EQ(result.searches, 4);
  EXPECT_DOUBLE_EQ(result.rates[0].second, 2.0 / 3);
  ASSERT_EQ(result.open_set.size(), 4u);
  for (const int k : {0, 1}) {  // below one of four: above the best unknown score
    EXPECT_EQ(result.open_set[k].allowed, 0);
    EXPECT_NEAR(result.open_set[k].threshold, std::cos(15 * M_PI / 180), 1e-6);
    EXPECT_DOUBLE_EQ(result.open_set[k].tpir, 1.0 / 3);  // Ann at 5
  }
  EXPECT_EQ(result.open_set[2].allowed, 1);
  EXPECT_DOUBLE_EQ(result.open_set[2].tpir, 2.0 / 3);  // Bob at 20 too
  // Ann at 30 never counts: Bob is ahead of her.
  EXPECT_DOUBLE_EQ(result.open_set[3].tpir, 2.0 / 3);
  EXPECT_DOUBLE_EQ(result.curve.back().true_accepts, 2.0 / 3);
  EXPECT_DOUBLE_EQ(result.curve.back().false_accepts, 1);
}

TEST(Identification, WithoutUnknownProbesTheirOwnIdentityIsTakenOut) {
  const LabelledRows probes{at_angles({5, 60}), {"Ann", "Bob"}, {}};
  const auto result = on_one_rank(kGallery, probes, {.ranks = {1}, .fpir = {0.0, 0.5}});
  EXPECT_TRUE(result.mates_removed);
  EXPECT_EQ(result.searches, 2);
  // Without Ann the best is Bob at 35, without Bob it is Cy at 30.
  EXPECT_NEAR(result.open_set[0].threshold, std::cos(30 * M_PI / 180), 1e-6);
  EXPECT_NEAR(result.open_set[1].threshold, std::cos(35 * M_PI / 180), 1e-6);
  EXPECT_DOUBLE_EQ(result.open_set[0].tpir, 1);  // 5 and 20 are nearer than 30
  const auto alone = on_one_rank({at_angles({0}), {"Ann"}, {}}, {at_angles({50}), {"Ann"}, {}});
  EXPECT_EQ(alone.searches, 0);
  EXPECT_TRUE(alone.open_set.empty());
  EXPECT_NE(to_text(alone).find("TPIR@FPIR undefined"), std::string::npos);
  EXPECT_DOUBLE_EQ(alone.rates[0].second, 1);
}

TEST(Identification, TiesCountAgainstUs) {
  // Equal rows stand in different places of a panel; whole numbers have exact scores.
  std::vector<std::string> people;
  std::vector<at::Tensor> rows;
  for (int k = 0; k < 70; ++k) {
    people.push_back("p" + std::to_string(k));
    rows.push_back(torch::tensor({3.0f, 4.0f, k < 67 ? 0.0f : 9.0f}));
  }
  const LabelledRows gallery{torch::stack(rows), people, {}};
  const LabelledRows probes{
      torch::tensor({{6.0f, 8.0f, 0.0f}, {0.0f, 0.0f, 2.0f}}), {"p11", "p68"}, {}};
  const auto result = on_one_rank(gallery, probes, {.ranks = {1, 3, 66, 67}, .fpir = {0.0}});
  EXPECT_DOUBLE_EQ(result.rates[0].second, 0);
  EXPECT_DOUBLE_EQ(result.rates[1].second, 0.5);  // p68 shares its row with two others: rank 3
  EXPECT_DOUBLE_EQ(result.rates[2].second, 0.5);
  EXPECT_DOUBLE_EQ(result.rates[3].second, 1);  // p11 with 66 others: rank 67
  EXPECT_DOUBLE_EQ(result.open_set[0].tpir, 0);
  EXPECT_TRUE(result.curve.empty());
}

TEST(Identification, AnIdentityScoresAsItsBestEntryOrAsItsMean) {
  // Ann at 0 and 60 (mean 30), Bob at 38. The probe is Ann at 55.
  const LabelledRows gallery{at_angles({0, 38, 60}), {"Ann", "Bob", "Ann"}, {"a", "b", "c"}};
  const LabelledRows probes{at_angles({55}), {"Ann"}, {}};
  const auto best = on_one_rank(gallery, probes, {.ranks = {1, 2}});
  EXPECT_EQ(best.gallery, 3);
  EXPECT_DOUBLE_EQ(best.rates[0].second, 1);
  const auto mean = on_one_rank(gallery, probes, {.ranks = {1, 2}, .gallery_means = true});
  EXPECT_EQ(mean.gallery, 2);
  EXPECT_EQ(mean.gallery_images, 3);
  EXPECT_DOUBLE_EQ(mean.rates[0].second, 0);  // Bob is 17 off, the mean of Ann 25
  EXPECT_DOUBLE_EQ(mean.rates[1].second, 1);
  EXPECT_NEAR(mean.hardest[0].score, std::cos(25 * M_PI / 180), 1e-6);
  EXPECT_EQ(mean.hardest[0].best_row, 1);
  // Other entries of one identity count once.
  const LabelledRows twice{at_angles({0, 1, 2, 30}), {"Bob", "Bob", "Bob", "Ann"}, {}};
  EXPECT_DOUBLE_EQ(
      on_one_rank(twice, {at_angles({10}), {"Ann"}, {}}, {.ranks = {2}}).rates[0].second, 1);
}

// The measures once more, the slow way: every score in one matrix, every identity by its maximum.
struct Slow {
  std::vector<int64_t> ranks;           // of known probes
  std::vector<double> own, best_other;  // of known probes
  std::vector<double> unknown;
};
Slow slow(const LabelledRows& gallery, const LabelledRows& probes) {
  const auto unit = [](const at::Tensor& rows) {
    return torch::nn::functional::normalize(rows.to(torch::kDouble));
  };
  const at::Tensor scores = unit(probes.rows).matmul(unit(gallery.rows).t());
  Slow result;
  for (int64_t p = 0; p < scores.size(0); ++p) {
    std::map<std::string, double> best;
    for (int64_t g = 0; g < scores.size(1); ++g) {
      const auto& name = gallery.identities[static_cast<size_t>(g)];
      const double score = scores[p][g].item<double>();
      const auto [found, added] = best.try_emplace(name, score);
      if (!added) found->second = std::max(found->second, score);
    }
    const auto own = best.find(probes.identities[static_cast<size_t>(p)]);
    double other = -2;
    int64_t ahead = 0;
    for (const auto& [name, score] : best)
      if (own == best.end() || name != own->first) {
        other = std::max(other, score);
        ahead += own != best.end() && score >= own->second;
      }
    if (own == best.end()) {
      result.unknown.push_back(other);
      continue;
    }
    result.ranks.push_back(ahead + 1);
    result.own.push_back(own->second);
    result.best_other.push_back(other);
  }
  return result;
}

LabelledRows random_rows(int64_t count, int64_t people, int64_t first, uint64_t seed) {
  Random random(random_key(seed));
  LabelledRows set{torch::empty({count, 7}), {}, {}};
  for (int64_t k = 0; k < count; ++k) {
    const int64_t person = first + random.below(people);
    Random face(random_key(99, static_cast<uint64_t>(person)));
    for (int64_t d = 0; d < 7; ++d) set.rows[k][d] = face.normal() + 0.8 * random.normal();
    set.identities.push_back("p" + std::to_string(person));
  }
  return set;
}

TEST(Identification, AgreesWithTheSlowWay) {
  const LabelledRows gallery = random_rows(65, 20, 0, 1), probes = random_rows(70, 25, 3, 2);
  const Slow wanted = slow(gallery, probes);
  ASSERT_GT(wanted.unknown.size(), 5u);
  const auto result = on_one_rank(gallery, probes, {.ranks = {1, 2, 5}, .fpir = {0.1, 0.3}});
  EXPECT_EQ(result.known, static_cast<int64_t>(wanted.ranks.size()));
  const auto known = static_cast<double>(wanted.ranks.size());
  for (const auto& [rank, rate] : result.rates)
    EXPECT_DOUBLE_EQ(rate,
                     static_cast<double>(std::count_if(wanted.ranks.begin(), wanted.ranks.end(),
                                                       [&](int64_t r) { return r <= rank; })) /
                         known);
  EXPECT_GT(result.rates[0].second, 0.2);
  EXPECT_LT(result.rates[0].second, 0.95);
  for (const auto& at : result.open_set) {
    std::vector<double> unknown = wanted.unknown;
    std::sort(unknown.rbegin(), unknown.rend());
    const auto allowed = static_cast<size_t>(at.fpir * static_cast<double>(unknown.size()));
    EXPECT_NEAR(at.threshold, unknown[allowed], 1e-12);
    double accepted = 0;
    for (size_t k = 0; k < wanted.ranks.size(); ++k)
      accepted += wanted.ranks[k] == 1 && wanted.own[k] > unknown[allowed];
    EXPECT_DOUBLE_EQ(at.tpir, accepted / known);
  }
}

TEST(Identification, TheSameBitsAtAnyNumberOfRanks) {
  const LabelledRows gallery = random_rows(65, 20, 0, 1), probes = random_rows(150, 25, 3, 2);
  const std::string wanted = to_json(on_one_rank(gallery, probes)).dump();
  for (const int ranks : {2, 3, 4}) {
    std::atomic<int> checked = 0;
    run_thread_ranks(ranks, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), ranks);
      EXPECT_EQ(to_json(identify(gallery, probes, {}, comm)).dump(), wanted);
      ++checked;
    });
    EXPECT_EQ(checked, ranks);
  }
  // Fewer blocks of probes than ranks.
  const LabelledRows few = random_rows(3, 20, 0, 5);
  const std::string one = to_text(on_one_rank(gallery, few));
  run_thread_ranks(
      4, [&](Communicator& comm) { EXPECT_EQ(to_text(identify(gallery, few, {}, comm)), one); });
}

TEST(Identification, BadSetsAreNamed) {
  const LabelledRows probes{at_angles({5, 60}), {"Ann", "Bob"}, {"p.jpg", "q.jpg"}};
  const LabelledRows empty{torch::empty({0, 2}), {}, {}};
  expect_parts(error_on_one_rank(empty, probes), {"the gallery is empty"});
  expect_parts(error_on_one_rank(kGallery, empty), {"the probe set is empty"});
  LabelledRows broken = probes;
  broken.rows = probes.rows.clone();
  broken.rows[1][0] = NAN;
  expect_parts(error_on_one_rank(kGallery, broken), {"row 1 (q.jpg) holds NaN"});
  expect_parts(error_on_one_rank(broken, probes), {"row 1 (q.jpg) holds NaN"});
  expect_parts(error_on_one_rank(kGallery, {at_angles({5}), {"Dora"}, {}}),
               {"no probe's identity is in the gallery", "'Dora'", "'Ann'"});
  expect_parts(error_on_one_rank(kGallery, {torch::ones({1, 3}), {"Ann"}, {}}),
               {"2 dimensions", "probes 3"});
  expect_parts(error_on_one_rank(kGallery, {at_angles({5}), {}, {}}), {"1 rows and 0 labels"});
  expect_parts(error_on_one_rank(kGallery, probes, {.ranks = {0}}), {"found 0"});
  expect_parts(error_on_one_rank(kGallery, probes, {.fpir = {1.0}}), {"wanted fpir"});
  const LabelledRows opposite{torch::tensor({{1.0f, 0.0f}, {-1.0f, 0.0f}}), {"Ann", "Ann"}, {}};
  expect_parts(error_on_one_rank(opposite, probes, {.gallery_means = true}),
               {"'Ann' add up to zero"});
}

}  // namespace
}  // namespace facetrain
