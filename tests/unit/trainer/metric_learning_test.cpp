// Whole runs of the recipe metric_learning on thread ranks: every pair loss gives the same at any
// world size, training separates people it has never seen, and what it cannot train on is a clear
// error.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <numeric>

#include "comm/thread_comm.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "losses/pair_loss.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"
#include "trainer/run.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

constexpr int kPeople = 8, kImages = 4;

class MetricLearning : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    write_tiny_faces(path("faces"), kPeople, kImages, 32);
  }
  static void TearDownTestSuite() { delete folder_; }
  static fs::path path(const std::string& name) { return folder_->path() / name; }

  static Config config(const std::string& run, const std::vector<std::string>& overrides) {
    Config result = Config::parse(fmt::format(R"(
run: {}
recipe: {{name: metric_learning}}
data: {{train: 'folder:{}', size: 32, batch_size: 12, workers: 2, sampler: {{name: balanced, images: 3}}}}
model: {{name: iresnet18, width: 0.0625, embedding: 16, batch_norm: sync}}
optimizer: {{name: sgd, lr: 0.05}}
schedule: {{name: constant}}
trainer: {{steps: 3, precision: fp64, threads: 1}}
checkpoint: {{every: 0}}
log: {{every: 1}}
)",
                                              path(run).string(), path("faces").string()),
                                  "test.yaml");
    result.override_with(overrides);
    resolve_config(result);
    return result;
  }
  static void train(const Config& config, int ranks) {
    run_thread_ranks(ranks, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), ranks);
      EXPECT_EQ(run_training({config, false, false}, {comm, c10::kCPU, "thread ranks"}),
                RunEnd::kDone);
    });
  }

  // The values of `key` in the lines of metrics.jsonl that have it.
  static std::vector<double> curve(const std::string& run, const std::string& key,
                                   const std::string& group = "") {
    std::vector<double> values;
    std::ifstream in(path(run) / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) {
      auto json = nlohmann::json::parse(line);
      if (!group.empty()) json = json.value(group, nlohmann::json::object());
      if (json.contains(key)) values.push_back(json.at(key).get<double>());
    }
    return values;
  }
  static void expect_same_run(const std::string& a, const std::string& b) {
    SCOPED_TRACE(a + " against " + b);
    for (const std::string key : {"loss", "same_cosine", "other_cosine"}) {
      const auto one = curve(a, key), other = curve(b, key);
      ASSERT_EQ(one.size(), 3u) << key;
      ASSERT_EQ(other.size(), 3u) << key;
      for (size_t i = 0; i < one.size(); ++i)
        EXPECT_NEAR(one[i], other[i], 1e-8) << key << " of step " << i + 1;
    }
    const auto file = [](const std::string& run) {
      return SafetensorsFile(*newest_checkpoint(path(run)) / "model.safetensors");
    };
    const SafetensorsFile one = file(a), other = file(b);
    ASSERT_GT(one.tensors().size(), 100u);
    for (const auto& [name, info] : one.tensors()) {
      const auto x = one.read(name).to(torch::kDouble), y = other.read(name).to(torch::kDouble);
      EXPECT_LT(((x - y).abs() / x.abs().clamp_min(1)).max().item<double>(), 1e-6) << name;
    }
  }

  static inline TemporaryFolder* folder_ = nullptr;
};

TEST_F(MetricLearning, EveryPairLossGivesTheSameAtAnyWorldSize) {
  for (const std::string& loss : PairLosses::get().names()) {
    const std::vector<int> sizes = loss == "triplet" ? std::vector{1, 2, 3, 4} : std::vector{1, 3};
    const auto name = [&](int ranks) { return fmt::format("{}{}", loss, ranks); };
    for (const int ranks : sizes) {
      train(config(name(ranks), {"loss.name=" + loss}), ranks);
      if (ranks > 1) expect_same_run(name(1), name(ranks));
    }
    EXPECT_GT(curve(name(1), "loss").front(), 0) << loss;
  }
}

TEST_F(MetricLearning, MicroBatchesAreTheSameAtAnyWorldSize) {
  for (const int ranks : {1, 2, 4})
    train(config(fmt::format("cut{}", ranks), {"trainer.accumulate=2"}), ranks);
  expect_same_run("cut1", "cut2");
  expect_same_run("cut1", "cut4");
}

// A folder per identity of pictures that share stripes of one width and direction, under a light,
// a colour and a noise of each picture's own: an untrained network sees the colours.
void write_striped_faces(const fs::path& folder, int first, int people) {
  for (int person = first; person < first + people; ++person) {
    Random of_person(random_key(3, person));
    const double width = of_person.uniform(0.3, 1.2), angle = of_person.uniform(0, M_PI);
    const fs::path here = folder / fmt::format("id_{:03}", person);
    fs::create_directories(here);
    for (int image = 0; image < kImages; ++image) {
      Random of_image(random_key(4, person, image));
      const double colour[3] = {of_image.uniform(50, 205), of_image.uniform(50, 205),
                                of_image.uniform(50, 205)};
      std::string pixels = "P6\n32 32\n255\n";
      for (int y = 0; y < 32; ++y)
        for (int x = 0; x < 32; ++x) {
          const double stripe = 35 * std::sin(width * (x * std::cos(angle) + y * std::sin(angle)));
          for (const double base : colour)
            pixels.push_back(
                static_cast<char>(static_cast<int>(base + stripe + of_image.uniform(-10, 10))));
        }
      std::ofstream(here / fmt::format("{}.ppm", image), std::ios::binary) << pixels;
    }
  }
}

// Every pair of a person's pictures, and as many of two people.
void write_pairs(const fs::path& file, int people) {
  std::ofstream out(file);
  for (int person = 0; person < people; ++person)
    for (int i = 0; i < kImages; ++i)
      for (int j = i + 1; j < kImages; ++j) {
        const int other = (person + i + j) % people;
        out << fmt::format("{0},{1},{2},1\n{0},{1},{3},0\n", person % 2, person * kImages + i,
                           person * kImages + j, other * kImages + j);
      }
}

TEST_F(MetricLearning, LearnsToTellStrangersApart) {
  constexpr int kCrowd = 60, kStrangers = 16;
  write_striped_faces(path("crowd"), 0, kCrowd);
  write_striped_faces(path("strangers"), kCrowd, kStrangers);
  write_pairs(path("pairs.csv"), kStrangers);
  const std::vector<std::string> learns{
      fmt::format("data.train=folder:{}", path("crowd").string()),
      "data.batch_size=32",
      "data.sampler.images=4",
      "data.flip=false",
      "trainer.precision=fp32",
      "trainer.steps=40",
      "eval.every=40",
      fmt::format("eval.sets=[{{name: strangers, path: 'folder:{}', pairs: '{}'}}]",
                  path("strangers").string(), path("pairs.csv").string())};
  auto untrained = learns;
  untrained.insert(untrained.end(), {"optimizer.lr=1e-12", "trainer.steps=1"});
  train(config("untrained", untrained), 2);
  train(config("learns", learns), 2);

  const auto loss = curve("learns", "loss"), same = curve("learns", "same_cosine");
  ASSERT_EQ(loss.size(), 40u);
  const auto mean = [](auto begin, auto end) {
    return std::accumulate(begin, end, 0.) / static_cast<double>(end - begin);
  };
  EXPECT_LT(mean(loss.end() - 10, loss.end()), 0.3 * mean(loss.begin(), loss.begin() + 5));
  EXPECT_GT(same.back(), same.front() + 0.2);
  const auto figure = [](const std::string& run, const std::string& name) {
    return curve(run, "strangers." + name, "eval").back();
  };
  EXPECT_LT(figure("untrained", "accuracy"), 0.65);
  EXPECT_GT(figure("learns", "accuracy"), 0.9);
  EXPECT_LT(figure("untrained", "auc"), 0.65);
  EXPECT_GT(figure("learns", "auc"), 0.95);
}

TEST_F(MetricLearning, WhatCannotBeTrainedOnIsAClearError) {
  write_tiny_faces(path("single"), 14, 1, 32);
  const auto message = [](const std::vector<std::string>& overrides) {
    return error_of([&] { train(config("bad", overrides), 2); });
  };
  expect_parts(message({fmt::format("data.train=folder:{}", path("single").string()),
                        "data.sampler.name=sequential"}),
               {"step 1: metric_learning wants two images of one identity in a batch, found 12 "
                "rows",
                "data.sampler={name: balanced"});
  expect_parts(message({"loss.name=arcface"}), {"unknown pair loss 'arcface'", "triplet"});
  expect_parts(message({"loss.name=tripplet"}), {"did you mean 'triplet'?"});
  expect_parts(message({"loss.mining=semi"}), {"loss.mining", "semihard"});
  expect_parts(message({"classifier.sample_rate=0.5"}), {"classifier"});
}

}  // namespace
}  // namespace facetrain
