// What the classifier promises beyond the margins' formulas: rows and draws that do not depend on
// the world size, clear errors, non-finite features that end in a skipped step, reduced precision,
// accumulation of gradients, bounded memory.
#include "losses/sharded_classifier.h"

#include <gtest/gtest.h>

#include <mutex>

#include "comm/thread_comm.h"
#include "core/random.h"
#include "losses/class_draws.h"
#include "tests/support/peak_memory.h"
#include "tests/unit/losses/classifier_problem.h"

namespace facetrain::testing {
namespace {

MarginCase case_named(const std::string& name) {
  for (const auto& all : {registered_cases(), interface_cases()})
    for (const MarginCase& c : all)
      if (c.name == name) return c;
  FT_FAIL("no margin case {}", name);
}

std::shared_ptr<Margin> make_margin(const std::string& name) {
  return Margins::get().create(Config::parse("{name: " + name + "}"));
}

TEST(ClassRows, DoNotDependOnTheWorldSizeAndAreNormal) {
  const torch::Tensor whole = draw_class_rows({0, 5000}, 1, 33, 0.01, 3);
  for (const int size : {2, 3, 4}) {
    std::vector<torch::Tensor> parts;
    for (int rank = 0; rank < size; ++rank)
      parts.push_back(draw_class_rows(slice_of(5000, rank, size), 1, 33, 0.01, 3));
    EXPECT_TRUE(torch::equal(torch::cat(parts), whole));
  }
  EXPECT_FALSE(torch::equal(whole, draw_class_rows({0, 5000}, 1, 33, 0.01, 4)));
  // 165,000 numbers: mean, deviation and fourth moment (3) within five of their standard errors.
  const torch::Tensor z = whole.to(torch::kDouble) / 0.01;
  const double n = static_cast<double>(z.numel());
  EXPECT_NEAR(z.mean().item<double>(), 0, 5 / std::sqrt(n));
  EXPECT_NEAR(z.square().mean().item<double>(), 1, 5 * std::sqrt(2 / n));
  EXPECT_NEAR(z.pow(4).mean().item<double>(), 3, 5 * std::sqrt(96 / n));
  // Columns that share a word, and neighbouring rows, do not go together.
  EXPECT_NEAR((z.select(1, 0) * z.select(1, 1)).mean().item<double>(), 0, 5 / std::sqrt(5000.0));
  EXPECT_NEAR((z.slice(0, 1) * z.slice(0, 0, 4999)).mean().item<double>(), 0, 5 / std::sqrt(n));
  // Sub-centres of a class differ.
  const torch::Tensor sub = draw_class_rows({0, 4}, 3, 8, 0.01, 3);
  for (int64_t i = 1; i < 12; ++i) EXPECT_FALSE(torch::equal(sub[0], sub[i]));
}

TEST(ClassRows, ModuleListsThemAsShards) {
  run_thread_ranks(3, [](Communicator& comm) {
    ASSERT_EQ(comm.size(), 3);
    ClassifierOptions options;
    options.classes = 10;
    ShardedClassifier classifier(options, 4, make_margin("softmax"), comm, 1);
    const auto shards = classifier.sharded();
    ASSERT_EQ(shards.size(), 2u);
    EXPECT_EQ(shards[0].name, "weight");
    EXPECT_EQ(shards[0].begin, 10 * comm.rank() / 3);
    EXPECT_EQ(shards[0].end, 10 * (comm.rank() + 1) / 3);
    EXPECT_EQ(shards[1].name, "bias");
    EXPECT_EQ(shards[1].total, 10);
    EXPECT_EQ(classifier.parameters().size(), 2u);
    for (const auto& parameter : classifier.parameters()) EXPECT_TRUE(parameter.requires_grad());
    EXPECT_TRUE(torch::equal(classifier.weight,
                             draw_class_rows({shards[0].begin, shards[0].end}, 1, 4, 0.01, 1)));
    classifier.to(torch::kDouble);
    EXPECT_EQ(classifier.weight.scalar_type(), torch::kDouble);
  });
}

TEST(ClassSample, IsAFunctionOfSeedStepAndClass) {
  const torch::Tensor none = torch::empty({0}, torch::kLong);
  const torch::Tensor drawn = draw_step_classes({0, 20000}, none, 0.3, 5, 17);
  EXPECT_NEAR(static_cast<double>(drawn.size(0)), 6000, 5 * std::sqrt(20000 * 0.3 * 0.7));
  EXPECT_FALSE(torch::equal(drawn, draw_step_classes({0, 20000}, none, 0.3, 5, 18)));
  const torch::Tensor part = draw_step_classes({7000, 9000}, none, 0.3, 5, 17) + 7000;
  EXPECT_TRUE(torch::equal(part, drawn.masked_select((drawn >= 7000).logical_and(drawn < 9000))));
  const torch::Tensor only =
      draw_step_classes({10, 20}, torch::tensor({3, 19, 11, 11, 40}, torch::kLong), 0, 5, 17);
  EXPECT_TRUE(torch::equal(only, torch::tensor({1, 9}, torch::kLong)));
}

TEST(ClassSample, ScheduleMayReachAllClasses) {
  const auto comm = make_thread_comms(1)[0];
  ClassifierOptions options;
  options.classes = 50;
  options.sample_rate = Config::parse("{sample_rate: {at: [0, 2], value: [0.1, 1.0]}}")
                            .as<ClassifierOptions>()
                            .sample_rate;
  ShardedClassifier classifier(options, 4, make_margin("cosface"), *comm, 1);
  const Problem problem = make_problem(6, 50, 4, 1);
  const torch::Tensor x = problem.x.to(torch::kFloat).set_requires_grad(true);
  for (const int64_t step : {0, 1, 2, 3}) {
    classifier.begin_step(std::vector<torch::Tensor>{problem.label}, step, 4, 1);
    EXPECT_FALSE(classifier.weight.grad().defined());
    EXPECT_FALSE(classifier.row_gradient("weight").defined());
    classifier.forward(x, problem.label, torch::arange(6)).mean().backward();
    EXPECT_EQ(classifier.touched_rows("weight").defined(), step < 2);
    EXPECT_EQ(classifier.weight.grad().defined(), step >= 2);
    EXPECT_EQ(classifier.row_gradient("weight").defined(), step < 2);
  }
}

TEST(Labels, WrongOnesAreTheSameErrorOnAllRanks) {
  for (const int64_t wrong : {int64_t{-1}, int64_t{10}}) {
    std::vector<std::string> messages(3);
    run_thread_ranks(3, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), 3);
      ClassifierOptions options;
      options.classes = 10;
      ShardedClassifier classifier(options, 4, make_margin("arcface"), comm, 1);
      torch::Tensor labels = torch::full({2 + comm.rank()}, comm.rank(), torch::kLong);
      if (comm.rank() == 1) labels[2] = wrong;
      try {
        classifier.begin_step(std::vector<torch::Tensor>{labels}, 0, 1, 1);
      } catch (const Error& error) {
        messages[comm.rank()] = error.what();
      }
      // Without begin_step, forward finds it.
      EXPECT_THROW(classifier.forward(torch::ones({2 + comm.rank(), 4}), labels,
                                      torch::arange(2 + comm.rank())),
                   Error);
    });
    EXPECT_EQ(messages[0], messages[1]);
    EXPECT_EQ(messages[0], messages[2]);
    for (const std::string& part :
         {fmt::format("label {}", wrong), std::string("position 2 of rank 1"),
          std::string("classes = 10")})
      EXPECT_NE(messages[0].find(part), std::string::npos) << messages[0];
  }
}

TEST(Labels, OutsideTheStepsSampleAreAnError) {
  const auto comm = make_thread_comms(1)[0];
  ClassifierOptions options;
  options.classes = 10;
  options.sample_rate = 0.0;
  ShardedClassifier classifier(options, 4, make_margin("arcface"), *comm, 1);
  classifier.begin_step(std::vector<torch::Tensor>{torch::tensor({int64_t{1}, int64_t{2}})}, 0, 1,
                        1);
  EXPECT_THROW(
      classifier.forward(torch::ones({1, 4}), torch::tensor({int64_t{3}}), torch::arange(1)),
      Error);
  EXPECT_THROW(
      classifier.forward(torch::ones({1, 5}), torch::tensor({int64_t{1}}), torch::arange(1)),
      Error);
  EXPECT_THROW(classifier.forward(torch::ones({1, 4}), torch::ones({1}), torch::arange(1)), Error);
}

TEST(NonFinite, FeaturesGiveNonFiniteLossesOfTheirRowsOnly) {
  for (const char* margin : {"arcface", "cosface", "softmax"})
    for (const double bad : {static_cast<double>(NAN), static_cast<double>(INFINITY), 3e38}) {
      SCOPED_TRACE(fmt::format("{} with {}", margin, bad));
      run_thread_ranks(2, [&](Communicator& comm) {
        ASSERT_EQ(comm.size(), 2);
        ClassifierOptions options;
        options.classes = 10;
        ShardedClassifier classifier(options, 4, make_margin(margin), comm, 1);
        const torch::Tensor labels = torch::tensor({int64_t{0}, int64_t{4}, int64_t{9}});
        torch::Tensor x = torch::ones({3, 4}) + comm.rank();
        if (comm.rank() == 1) x[1].fill_(bad);  // 3e38 is finite, its norm is not
        x.set_requires_grad(true);
        classifier.begin_step(std::vector<torch::Tensor>{labels}, 0, 1, 1);
        const torch::Tensor loss = classifier.forward(x, labels, torch::arange(3));
        const torch::Tensor finite = loss.isfinite();
        for (int64_t i = 0; i < 3; ++i)
          EXPECT_EQ(finite[i].item<bool>(), comm.rank() == 0 || i != 1);
        loss.sum().backward();  // neither hangs nor throws
      });
    }
}

// bf16 has 8 significant bits: cosines are off by about 2^-9, logits by 64 times that; in fp32 by
// 64 * 2^-22.
TEST(Precision, Fp32AndBf16StayNearFp64) {
  Problem problem = make_problem(24, 40, 32, 3);
  problem.x = problem.x.to(torch::kBFloat16).to(torch::kDouble);  // the same features for all
  problem.workspace_mb = 1;
  for (const char* name : {"arcface", "cosface", "softmax", "subcenter_arcface", "uniface"}) {
    SCOPED_TRACE(name);
    const MarginCase margin = case_named(name);
    if (std::string(name) == "softmax") {
      problem.x = (problem.x / problem.x.norm(2, 1, true)).to(torch::kBFloat16).to(torch::kDouble);
    }
    const Solution exact = solve_sharded(problem, margin, 2);
    const Solution single = solve_sharded(problem, margin, 2, torch::kFloat, torch::kFloat);
    const Solution reduced = solve_sharded(problem, margin, 2, torch::kBFloat16, torch::kFloat);
    EXPECT_LE(difference(single.loss, exact.loss), 1e-4);
    EXPECT_LE(difference(reduced.loss, exact.loss), 0.25);
    const auto relative = [&](const torch::Tensor& a, const torch::Tensor& b) {
      return ((a - b).norm() / b.norm()).item<double>();
    };
    EXPECT_LE(relative(single.by_weight, exact.by_weight), 1e-4);
    EXPECT_LE(relative(single.by_x, exact.by_x), 1e-4);
    EXPECT_LE(relative(reduced.by_weight, exact.by_weight), 0.1);
    EXPECT_LE(relative(reduced.by_x, exact.by_x), 0.1);
    EXPECT_GT(relative(reduced.by_weight, exact.by_weight), 1e-4);  // bf16 factors indeed
    problem.gemm = "fp32";
    const Solution kept = solve_sharded(problem, margin, 2, torch::kBFloat16, torch::kFloat);
    EXPECT_TRUE(torch::equal(kept.by_weight, single.by_weight));
    problem.gemm = "bf16";
  }
}

TEST(Precision, Fp64EmbeddingsWantFp64Rows) {
  const auto comm = make_thread_comms(1)[0];
  ClassifierOptions options;
  options.classes = 4;
  ShardedClassifier classifier(options, 4, make_margin("arcface"), *comm, 1);
  EXPECT_THROW(classifier.forward(torch::ones({1, 4}, torch::kDouble),
                                  torch::zeros({1}, torch::kLong), torch::arange(1)),
               Error);
}

TEST(Gradients, FrozenEmbeddingsOrRowsAndNoGrad) {
  const auto comm = make_thread_comms(1)[0];
  ClassifierOptions options;
  options.classes = 10;
  ShardedClassifier classifier(options, 8, make_margin("cosface"), *comm, 1);
  const Problem problem = make_problem(6, 10, 8, 1);
  const torch::Tensor x = problem.x.to(torch::kFloat), positions = torch::arange(6);
  classifier.forward(x, problem.label, positions).sum().backward();
  EXPECT_GT(classifier.weight.grad().abs().max().item<float>(), 0);
  const torch::Tensor once = classifier.weight.grad().clone();
  classifier.forward(x, problem.label, positions).sum().backward();
  EXPECT_LE((classifier.weight.grad() - 2 * once).abs().max().item<float>(), 1e-3f);
  classifier.zero_grad_rows();
  EXPECT_FALSE(classifier.weight.grad().defined());
  classifier.weight.set_requires_grad(false);
  const torch::Tensor leaf = x.clone().set_requires_grad(true);
  classifier.forward(leaf, problem.label, positions).sum().backward();
  EXPECT_TRUE(leaf.grad().defined());
  EXPECT_FALSE(classifier.weight.grad().defined());
  const torch::NoGradGuard none;
  EXPECT_FALSE(classifier.forward(leaf, problem.label, positions).requires_grad());
  EXPECT_TRUE(classifier.target_cosine().isfinite().item<bool>());
}

TEST(Gradients, SameBitsRunToRunAndWithAnyNumberOfThreads) {
  Problem problem = make_problem(24, 3000, 32, 3);
  problem.workspace_mb = 0.02;  // many chunks
  const int threads = at::get_num_threads();
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    at::set_num_threads(1);
    const Solution a = solve_sharded(problem, case_named("arcface"), 3, type, torch::kFloat);
    for (const int count : {1, 2, 3}) {
      at::set_num_threads(count);
      const Solution b = solve_sharded(problem, case_named("arcface"), 3, type, torch::kFloat);
      EXPECT_TRUE(torch::equal(a.loss, b.loss));
      EXPECT_TRUE(torch::equal(a.by_weight, b.by_weight));
      EXPECT_TRUE(torch::equal(a.by_x, b.by_x));
    }
  }
  at::set_num_threads(threads);
}

TEST(Gradients, UntouchedRowsFollowTheOption) {
  const auto comm = make_thread_comms(1)[0];
  for (const char* rows : {"sparse", "dense"}) {
    ClassifierOptions options;
    options.classes = 4;
    options.rows = rows;
    ShardedClassifier classifier(options, 4, make_margin("arcface"), *comm, 1);
    EXPECT_EQ(classifier.update_untouched_rows("weight"), std::string(rows) == "dense");
  }
}

// Peak of tensor memory over what is there before: the gradient of the rows, the workspace, and a
// few [B, D] and [B].
TEST(Memory, IsIndependentOfBatchTimesClasses) {
  constexpr int64_t kDim = 16, kClasses = 50000;
  for (const int64_t batch : {64, 256}) {
    const auto comm = make_thread_comms(1)[0];
    ClassifierOptions options;
    options.classes = kClasses;
    options.workspace_mb = 2;
    ShardedClassifier classifier(options, kDim, make_margin("arcface"), *comm, 1);
    const Problem problem = make_problem(batch, kClasses, kDim, 1);
    const torch::Tensor x = problem.x.to(torch::kFloat).set_requires_grad(true);
    const PeakMemory peak;
    classifier.begin_step(std::vector<torch::Tensor>{problem.label}, 0, 1, 1);
    classifier.forward(x, problem.label, torch::arange(batch)).mean().backward();
    const int64_t bound = kClasses * kDim * 4 + at::get_num_threads() * 2'000'000 +
                          (16 + 24) * batch * (kDim + 8) * 8;
    EXPECT_LE(peak.bytes(), bound);
    EXPECT_GE(peak.bytes(), kClasses * kDim * 4);  // it does measure
    EXPECT_LT(peak.bytes(), batch * kClasses * 4);
  }
}

}  // namespace
}  // namespace facetrain::testing
