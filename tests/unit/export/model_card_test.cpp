// Intervals against published numbers, and what a card says when little is known.
#include "export/model_card.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/error_of.h"

namespace facetrain {
namespace {

TEST(ModelCard, WilsonsIntervals) {
  // Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3.
  const struct {
    int64_t hits, n;
    double low, high;
  } published[] = {{81, 263, 0.2553, 0.3662},
                   {15, 148, 0.0624, 0.1605},
                   {0, 20, 0.0000, 0.1611},
                   {1, 29, 0.0061, 0.1718}};
  for (const auto& [hits, n, low, high] : published) {
    const auto [a, b] = wilson_interval(static_cast<double>(hits) / static_cast<double>(n), n);
    EXPECT_NEAR(a, low, 5e-5) << hits;
    EXPECT_NEAR(b, high, 5e-5) << hits;
  }
}

TEST(ModelCard, IntervalsOfAreas) {
  // At an area of 1/2 the variance is that of Mann and Whitney's U: (m + n + 1) / (12 m n).
  const auto [bottom, top] = auc_interval(0.5, 40, 60);
  EXPECT_NEAR((top - bottom) / 2 / 1.959964, std::sqrt(101.0 / (12 * 40 * 60)), 1e-6);
  // Hanley and McNeil (1982): area 0.893 over 51 abnormal and 58 normal cases, standard error
  // 0.032.
  const auto [low, high] = auc_interval(0.893, 51, 58);
  EXPECT_NEAR((high - low) / 2 / 1.959964, 0.032, 1e-3);
  EXPECT_NEAR((high + low) / 2, 0.893, 1e-12);
  EXPECT_EQ(auc_interval(1.0, 10, 10), std::make_pair(1.0, 1.0));
  EXPECT_EQ(auc_interval(0.99, 5, 5).second, 1.0);
}

ModelCard card() {
  ModelCard card;
  card.title = "iresnet18";
  card.file = "n.onnx";
  card.format = "onnx";
  card.bytes = 12345;
  card.sha256 = "abc";
  card.image_size = 112;
  card.dim = 512;
  card.parameters = 24;
  card.info = {"model: {name: iresnet18}", "run r"};
  card.evaluated = "this is no run";
  return card;
}

TEST(ModelCard, SaysWhatIsNotKnown) {
  const std::string text = to_markdown(card());
  expect_parts(text, {"# iresnet18", "`abc`", "12345", "[batch, 3, 112, 112]", "127.5 127.5 127.5",
                      "not exported from a run", "not known (this is no run)",
                      "model: {name: iresnet18}", "Intended use", "to be filled in"});
  EXPECT_EQ(text.find("Wilson"), std::string::npos);
}

TEST(ModelCard, ShowsFiguresWithTheirIntervals) {
  ModelCard known = card();
  known.training_data = "sets/a";
  known.training_config = "seed: 1";
  known.evaluated = "during training, after step 7";
  known.figures = {{"lfw", "accuracy", 0.98765, {{0.98, 0.99}}, "6000 pairs"},
                   {"lfw", "eer", 0.01, {}, "no interval"},
                   {"lfw", "accuracy", 0.9, {{0.85, 0.95}}, "100 pairs", "young"}};
  const std::string text = to_markdown(known);
  expect_parts(text, {"after step 7", "| lfw | accuracy | 0.9877 | 0.9800 … 0.9900 | 6000 pairs |",
                      "| lfw | eer | 0.0100 | - | no interval |", "Wilson",
                      "`data.train`: `sets/a`", "```yaml\nseed: 1\n```",
                      "| lfw | young | accuracy | 0.9000 | 0.8500 … 0.9500 | 100 pairs |"});
  known.figures.pop_back();
  expect_parts(to_markdown(known), {"Figures per group of people: not known", "group_by"});
  EXPECT_EQ(text.find("model: {name: iresnet18}"), std::string::npos);
}

}  // namespace
}  // namespace facetrain
