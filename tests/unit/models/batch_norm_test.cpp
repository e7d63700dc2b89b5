// BatchNorm against at::batch_norm, over micro-batches and over ranks.
#include "models/batch_norm.h"

#include <gtest/gtest.h>

#include <barrier>
#include <mutex>
#include <thread>

#include "core/check.h"
#include "models/init_weights.h"
#include "models/layers.h"

namespace facetrain {
namespace {

using torch::Tensor;

Tensor random(torch::IntArrayRef sizes, const std::string& name, double low = -2, double high = 3) {
  auto x = torch::empty(sizes, torch::kDouble);
  init_uniform(x, 11, name, low, high);
  return x;
}

BatchNorm make(int64_t channels, bool affine = true) {
  BatchNorm norm(channels, 1e-5, 0.1, affine);
  to_dtype(*norm, torch::kDouble);
  if (affine) {
    const torch::NoGradGuard no_grad;
    norm->weight.copy_(random({channels}, "weight"));
    norm->bias.copy_(random({channels}, "bias"));
  }
  return norm;
}

void expect_near(const Tensor& a, const Tensor& b, double tolerance, const std::string& what) {
  ASSERT_EQ(a.sizes(), b.sizes()) << what;
  EXPECT_LE((a - b).abs().max().item<double>(), tolerance) << what;
}

// Every rank adds its part in rank order, so that all get the same bits.
class ThreadSum {
 public:
  explicit ThreadSum(int ranks) : parts_(ranks), barrier_(ranks) {}
  void sum(int rank, Tensor& statistics) {
    EXPECT_EQ(statistics.scalar_type(), torch::kDouble);
    parts_[rank] = statistics;
    barrier_.arrive_and_wait();
    auto total = torch::zeros_like(statistics);
    for (const auto& part : parts_) total += part;
    barrier_.arrive_and_wait();
    statistics.copy_(total);
    if (rank == 0) ++calls_;
  }
  int ranks() const { return static_cast<int>(parts_.size()); }
  int calls() const { return calls_; }

 private:
  std::vector<Tensor> parts_;
  std::barrier<> barrier_;
  int calls_ = 0;
};

class RankReducer : public StatisticsReducer {
 public:
  RankReducer(ThreadSum& shared, int rank) : shared_(shared), rank_(rank) {}
  void sum(Tensor& statistics) override { shared_.sum(rank_, statistics); }

 private:
  ThreadSum& shared_;
  int rank_;
};

class Layout : public testing::TestWithParam<int> {
 protected:
  Tensor arranged(const Tensor& x) const {
    return x.dim() == 4 && GetParam() == 1 ? x.contiguous(at::MemoryFormat::ChannelsLast) : x;
  }
  std::vector<int64_t> shape(int64_t batch) const {
    return GetParam() == 2 ? std::vector<int64_t>{batch, 6} : std::vector<int64_t>{batch, 6, 3, 5};
  }
};
INSTANTIATE_TEST_SUITE_P(BatchNorm, Layout, testing::Values(0, 1, 2));  // NCHW, NHWC, [B, C]

TEST_P(Layout, EqualsPyTorchOverThreeMicroBatches) {
  auto norm = make(6);
  auto weight = norm->weight.detach().clone().requires_grad_();
  auto bias = norm->bias.detach().clone().requires_grad_();
  const auto mean = torch::zeros({6}, torch::kDouble), var = torch::ones({6}, torch::kDouble);
  for (int k = 0; k < 3; ++k) {
    const auto x = arranged(random(shape(7), fmt::format("x{}", k)));
    auto ours = x.clone().requires_grad_(), theirs = x.clone().requires_grad_();
    const auto y = norm(ours);
    const auto z = at::batch_norm(theirs, weight, bias, mean, var, true, 0.1, 1e-5, false);
    expect_near(y, z, 1e-12, "output");
    y.pow(3).sum().backward();
    z.pow(3).sum().backward();
    expect_near(ours.grad(), theirs.grad(), 1e-9, "gradient of x");
  }
  expect_near(norm->weight.grad(), weight.grad(), 1e-9, "gradient of weight");
  expect_near(norm->bias.grad(), bias.grad(), 1e-9, "gradient of bias");
  EXPECT_TRUE(norm->running_mean.equal(torch::zeros({6}, torch::kDouble)));
  norm->commit();
  expect_near(norm->running_mean, mean, 1e-13, "running mean");
  expect_near(norm->running_var, var, 1e-13, "running variance");
  EXPECT_EQ(norm->num_batches_tracked.item<int64_t>(), 3);
  norm->eval();
  const auto x = arranged(random(shape(2), "x"));
  expect_near(norm(x), at::batch_norm(x, weight, bias, mean, var, false, 0.1, 1e-5, false), 1e-12,
              "evaluation");
}

// Rank r holds rows ⌊nr/W⌋ … ⌊n(r+1)/W⌋ of the batch; everything must be as if one rank had it all.
// The rows of the batch differ in mean, so that the ranks' means do.
TEST_P(Layout, SynchronisedRanksEqualOneRankOnTheWholeBatch) {
  constexpr int64_t kRows = 7;
  auto whole = make(6);
  std::vector<Tensor> batches, outputs, gradients;
  for (int k = 0; k < 2; ++k) {
    auto x = random(shape(kRows), fmt::format("batch{}", k));
    x += torch::arange(kRows)
             .to(torch::kDouble)
             .view({kRows, 1})
             .expand({kRows, 6})
             .reshape(x.dim() == 4 ? std::vector<int64_t>{kRows, 6, 1, 1}
                                   : std::vector<int64_t>{kRows, 6});
    batches.push_back(arranged(x));
    auto leaf = batches.back().clone().requires_grad_();
    outputs.push_back(whole(leaf));
    outputs.back().pow(3).sum().backward();
    gradients.push_back(leaf.grad());
  }
  whole->commit();

  for (const int ranks : {1, 2, 3, 4}) {
    ThreadSum shared(ranks);
    ASSERT_EQ(shared.ranks(), ranks);
    std::vector<BatchNorm> norms;
    for (int rank = 0; rank < ranks; ++rank) norms.push_back(make(6));
    std::vector<std::thread> threads;
    for (int rank = 0; rank < ranks; ++rank)
      threads.emplace_back([&, rank] {
        auto& norm = norms[rank];
        set_batch_norm_reducer(*norm, std::make_shared<RankReducer>(shared, rank));
        const int64_t begin = kRows * rank / ranks, rows = kRows * (rank + 1) / ranks - begin;
        for (int k = 0; k < 2; ++k) {
          auto x = batches[k].narrow(0, begin, rows).clone().requires_grad_();
          const auto y = norm(x);
          expect_near(y, outputs[k].narrow(0, begin, rows), 1e-11, "output");
          y.pow(3).sum().backward();
          expect_near(x.grad(), gradients[k].narrow(0, begin, rows), 1e-9, "gradient of x");
        }
        std::vector<Tensor> averaged;
        norm->collect(averaged);
        EXPECT_TRUE(averaged.empty());  // already equal on all ranks
        norm->commit();
      });
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(shared.calls(), 4);  // one forward and one backward for each micro-batch
    auto weight_gradient = torch::zeros({6}, torch::kDouble),
         bias_gradient = weight_gradient.clone();
    for (auto& norm : norms) {
      weight_gradient += norm->weight.grad();
      bias_gradient += norm->bias.grad();
      expect_near(norm->running_mean, whole->running_mean, 1e-12, "running mean");
      expect_near(norm->running_var, whole->running_var, 1e-12, "running variance");
      EXPECT_TRUE(norm->running_var.equal(norms[0]->running_var));
      EXPECT_EQ(norm->num_batches_tracked.item<int64_t>(), 2);
    }
    expect_near(weight_gradient, whole->weight.grad(), 1e-8, "gradient of weight");
    expect_near(bias_gradient, whole->bias.grad(), 1e-8, "gradient of bias");
  }
}

TEST(BatchNorm, LocalStatisticsAreAveragedOverRanks) {
  auto one = make(6), other = make(6), reference = make(6);
  const auto x = random({5, 6}, "one"), y = random({4, 6}, "other");
  one(x), other(y);
  std::vector<Tensor> first, second;
  one->collect(first), other->collect(second);
  ASSERT_EQ(first.size(), 1u);
  const auto average = (first[0] + second[0]) / 2;
  first[0].copy_(average), second[0].copy_(average);  // as the trainer does
  one->commit(), other->commit();
  EXPECT_TRUE(one->running_var.equal(other->running_var));
  expect_near(one->running_mean, 0.1 * (x.mean(0) + y.mean(0)) / 2, 1e-13, "mean");
  expect_near(one->running_var, 0.9 + 0.1 * (x.var(0) + y.var(0)) / 2, 1e-13, "variance");
}

TEST(BatchNorm, SynchronisedStatisticsAreSoundFarFromZero) {
  // A mean of 1e4 deviations: plain fp32 sums of squares would lose the variance altogether.
  ThreadSum shared(2);
  const auto x = random({64, 2, 4, 4}, "far", -1, 1) + 1e4;
  const auto expected = x.to(torch::kFloat).to(torch::kDouble).transpose(0, 1).flatten(1).var(1);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < 2; ++rank)
    threads.emplace_back([&, rank] {
      BatchNorm norm(2);
      norm->set_reducer(std::make_shared<RankReducer>(shared, rank));
      norm(x.narrow(0, 32 * rank, 32).to(torch::kFloat));
      norm->commit();
      const auto variance = (norm->running_var.to(torch::kDouble) - 0.9) / 0.1;
      expect_near(variance / expected, torch::ones({2}, torch::kDouble), 1e-3, "variance");
    });
  for (auto& thread : threads) thread.join();
}

TEST(BatchNorm, HalfWidthInputsKeepWideStatistics) {
  const auto x = random({16, 6, 4, 4}, "x").to(torch::kBFloat16);
  auto shared = ThreadSum(1);
  std::vector<Tensor> results;
  for (const bool synchronised : {false, true}) {
    BatchNorm norm(6);
    if (synchronised) norm->set_reducer(std::make_shared<RankReducer>(shared, 0));
    auto leaf = x.clone().requires_grad_();
    const auto y = norm(leaf);
    EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
    y.to(torch::kFloat).pow(2).sum().backward();
    EXPECT_EQ(norm->weight.grad().scalar_type(), torch::kFloat);
    norm->commit();
    EXPECT_EQ(norm->running_mean.scalar_type(), torch::kFloat);
    const auto wide = x.to(torch::kDouble).transpose(0, 1).flatten(1);
    expect_near(norm->running_mean.to(torch::kDouble), 0.1 * wide.mean(1), 1e-6, "mean");
    expect_near(norm->running_var.to(torch::kDouble), 0.9 + 0.1 * wide.var(1), 1e-6, "variance");
    results.push_back(y.to(torch::kFloat));
  }
  expect_near(results[0], results[1], 0.02, "local against synchronised");
}

TEST(BatchNorm, WithoutParametersAndWithoutGradient) {
  auto shared = ThreadSum(1);
  auto local = make(6, false), synchronised = make(6, false);
  synchronised->set_reducer(std::make_shared<RankReducer>(shared, 0));
  EXPECT_TRUE(local->parameters().empty());
  auto a = random({5, 6, 2, 2}, "x").requires_grad_(), b = a.detach().clone().requires_grad_();
  local(a).pow(3).sum().backward();
  synchronised(b).pow(3).sum().backward();
  expect_near(a.grad(), b.grad(), 1e-11, "gradient");
  const torch::NoGradGuard no_grad;
  expect_near(local(a), synchronised(b), 1e-12, "output without a graph");
}

TEST(BatchNorm, FrozenAndEmptyKeepNothing) {
  auto norm = make(6);
  norm->eval();
  norm(random({5, 6}, "x"));
  norm->commit();
  EXPECT_TRUE(norm->running_mean.equal(torch::zeros({6}, torch::kDouble)));
  EXPECT_EQ(norm->num_batches_tracked.item<int64_t>(), 0);
}

TEST(BatchNorm, OneValueAChannelIsAnError) {
  auto shared = ThreadSum(1);
  auto norm = make(6);
  EXPECT_THROW(norm(random({1, 6}, "x")), Error);
  EXPECT_THROW(norm(random({2, 5}, "x")), Error);
  EXPECT_NO_THROW(norm(random({1, 6, 1, 2}, "x")));
  norm->set_reducer(std::make_shared<RankReducer>(shared, 0));
  EXPECT_THROW(norm(random({1, 6}, "x")), Error);
}

}  // namespace
}  // namespace facetrain
