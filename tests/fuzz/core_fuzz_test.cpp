// Mutated safetensors files and configurations: each reads or throws an Error, never anything else,
// in bounded time.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "core/check.h"
#include "core/config.h"
#include "core/random.h"
#include "core/safetensors.h"
#include "core/torch.h"

namespace facetrain {
namespace {

constexpr int kRounds = 4000;

// One to four edits: a bit flipped, a byte replaced, a piece removed, repeated or replaced by a
// nasty word.
std::string mutate(std::string text, Random& random, const std::vector<std::string>& words) {
  const int64_t edits = 1 + random.below(4);
  for (int64_t i = 0; i < edits && !text.empty(); ++i) {
    const auto at = static_cast<size_t>(random.below(static_cast<int64_t>(text.size())));
    const auto length = static_cast<size_t>(random.below(12));
    switch (random.below(5)) {
      case 0:
        text[at] = static_cast<char>(text[at] ^ (1 << random.below(8)));
        break;
      case 1:
        text[at] = static_cast<char>(random.below(256));
        break;
      case 2:
        text.erase(at, length);
        break;
      case 3:
        text.insert(at, text.substr(at, length));
        break;
      default:
        text.replace(at, length,
                     words[static_cast<size_t>(random.below(static_cast<int64_t>(words.size())))]);
    }
  }
  return text;
}

TEST(CoreFuzz, SafetensorsReadOrThrow) {
  const auto path =
      std::filesystem::path(testing::TempDir()) / fmt::format("fuzz_{}.safetensors", getpid());
  save_safetensors(path, {{"a", torch::ones({3, 4})}, {"b.c", torch::zeros({5}, at::kLong)}},
                   {{"step", "1"}});
  std::stringstream original;
  original << std::ifstream(path, std::ios::binary).rdbuf();
  const std::vector<std::string> words{
      "-1",   "18446744073709551616", "1e308",       "null", "[", "{\"a\":", "\"F64\"",
      "[[]]", "4294967296",           "\"\\u0000\"", "}",    ","};
  int read = 0, refused = 0;
  for (int round = 0; round < kRounds; ++round) {
    Random random(random_key(1, round));
    std::ofstream(path, std::ios::binary) << mutate(original.str(), random, words);
    try {
      const SafetensorsFile file(path);
      for (const auto& [name, info] : file.tensors())
        EXPECT_EQ(file.read(name).nbytes(), info.end - info.begin);
      ++read;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(path.string()), std::string::npos) << error.what();
      ++refused;
    }
  }
  std::filesystem::remove(path);
  EXPECT_EQ(read + refused, kRounds);
  EXPECT_GT(read, kRounds / 100);  // padding and data may change freely
  EXPECT_GT(refused, kRounds / 10);
}

struct Section {
  double rate = 0.5;
  bool flag = false;
  Duration every{10};
  Scheduled lr{0.1};
  std::vector<int64_t> sizes{1, 2};
  Config loss;
  void fields(auto& f) {
    f("rate", rate, range(0, 1), "");
    f("flag", flag, "");
    f("every", every, at_least(0), "");
    f("lr", lr, "");
    f("sizes", sizes, "");
    f("loss", loss, "");
  }
};
struct Root {
  Section data;
  std::string run;
  void fields(auto& f) {
    f("data", data, "");
    f("run", run, "");
  }
};

TEST(CoreFuzz, ConfigurationsReadOrThrow) {
  const std::string original =
      "run: runs/a\ndata:\n  rate: 0.25\n  flag: yes\n  every: '2 epochs'\n"
      "  lr: {at: [0, 100], value: [0.1, 1e-4], interpolate: cosine}\n  sizes: [1, 2, 3]\n"
      "  loss: &x {name: arcface, margin: 0.5}\n";
  const std::vector<std::string> words{"*x",    "&y [*y]",   "{",         "]",     ": ",    "- ",
                                       "\t",    "|",         "!!binary ", "1e999", "nan",   "? ",
                                       "---\n", "%YAML 9\n", "\n",        "'",     "<<: *x"};
  int read = 0, refused = 0;
  for (int round = 0; round < kRounds; ++round) {
    Random random(random_key(2, round));
    const std::string text = mutate(original, random, words);
    try {
      auto config = Config::parse(text, "fuzz.yaml");
      config.as<Root>();
      const std::string dump = config.dump();
      EXPECT_EQ(Config::parse(dump).dump(), dump) << text;
      ++read;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_EQ(read + refused, kRounds);
  EXPECT_GT(read, kRounds / 50);
  EXPECT_GT(refused, kRounds / 10);
}

TEST(CoreFuzz, OverridesApplyOrThrow) {
  const std::string original = "data.loss.name=cosface";
  const std::vector<std::string> words{"..",     "=",    "=[", "name=", ".name",
                                       "{a: 1}", "data", "\n", "&a"};
  int applied = 0, refused = 0;
  for (int round = 0; round < kRounds; ++round) {
    Random random(random_key(3, round));
    const std::vector<std::string> overrides{mutate(original, random, words), "run=x"};
    auto config = Config::parse("data: {rate: 0.5, loss: {name: arcface, margin: 1}}\n");
    try {
      config.override_with(overrides);
      config.as<Root>();
      ++applied;
    } catch (const Error&) {
      ++refused;
    }
  }
  EXPECT_EQ(applied + refused, kRounds);
  EXPECT_GT(applied, 0);
}

}  // namespace
}  // namespace facetrain
