// Buckets, hooks and counts of GradReducer on thread ranks.
#include "comm/grad_reducer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "comm/thread_comm.h"
#include "core/check.h"
#include "core/torch.h"

namespace facetrain {
namespace {

using Named = std::vector<std::pair<std::string, at::Tensor>>;

// A small network with a channels_last convolution, in double; the same weights on every rank.
struct Network {
  at::Tensor conv, scale, linear, bias;
  explicit Network(at::ScalarType type = at::kDouble) {
    conv = at::linspace(-1, 1, 4 * 3 * 2 * 2, type)
               .view({4, 3, 2, 2})
               .contiguous(at::MemoryFormat::ChannelsLast)
               .requires_grad_();
    scale = at::linspace(0.5, 1.5, 4, type).view({4, 1, 1}).requires_grad_();
    linear = at::linspace(-0.3, 0.3, 5 * 4, type).view({5, 4}).requires_grad_();
    bias = at::linspace(0, 1, 5, type).requires_grad_();
  }
  Named parameters() const {
    return {{"conv", conv}, {"scale", scale}, {"linear", linear}, {"bias", bias}};
  }
  at::Tensor loss(const at::Tensor& images) const {
    const at::Tensor features = (at::conv2d(images, conv) * scale).tanh().mean({2, 3});
    return at::linear(features, linear, bias).square().sum(1).mean();
  }
};

at::Tensor images_of(int rank, int micro_batch, at::ScalarType type = at::kDouble) {
  return at::arange(2 * 3 * 4 * 4, at::kDouble)
      .add(17 * rank + 5 * micro_batch)
      .sin()
      .view({2, 3, 4, 4})
      .to(type);
}

// The gradient of the mean loss over all ranks' and micro-batches' images, on one rank without a
// reducer.
std::vector<at::Tensor> reference(int size, int micro_batches) {
  const Network network;
  std::vector<at::Tensor> images;
  for (int r = 0; r < size; ++r) {
    for (int m = 0; m < micro_batches; ++m) images.push_back(images_of(r, m));
  }
  network.loss(at::cat(images)).backward();
  std::vector<at::Tensor> gradients;
  for (const auto& [name, parameter] : network.parameters()) gradients.push_back(parameter.grad());
  return gradients;
}

class GradReducerRanks : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Sizes, GradReducerRanks, testing::Values(1, 2, 3, 4));

TEST_P(GradReducerRanks, AccumulatesMicroBatchesToTheGradientOfAll) {
  const int size = GetParam(), micro_batches = 3;
  const auto wanted = reference(size, micro_batches);
  run_thread_ranks(size, [&](Communicator& comm) {
    ASSERT_EQ(comm.size(), size);
    for (const int64_t bucket_bytes : {1, 200, 1 << 20}) {
      const Network network;
      GradReducer reducer(network.parameters(), comm, {.bucket_bytes = bucket_bytes});
      for (int step = 0; step < 2; ++step) {  // the second starts from zero again
        reducer.zero();
        for (int m = 0; m < micro_batches; ++m) {
          reducer.begin(m + 1 == micro_batches);
          (network.loss(images_of(comm.rank(), m)) / micro_batches).backward();
        }
        reducer.finish();
        size_t i = 0;
        for (const auto& [name, parameter] : network.parameters()) {
          EXPECT_TRUE(at::allclose(parameter.grad(), wanted[i++], 0, 1e-12))
              << name << " bucket " << bucket_bytes;
          EXPECT_TRUE(reducer.reached(parameter)) << name;
        }
      }
    }
  });
}

TEST_P(GradReducerRanks, OverlapChangesNoBit) {
  run_thread_ranks(GetParam(), [](Communicator& comm) {
    std::vector<std::vector<at::Tensor>> gradients;
    for (const bool overlap : {true, false}) {
      const Network network(at::kFloat);
      GradReducer reducer(network.parameters(), comm, {.bucket_bytes = 128, .overlap = overlap});
      reducer.zero();
      reducer.begin(true);
      network.loss(images_of(comm.rank(), 0, at::kFloat)).backward();
      reducer.finish();
      gradients.emplace_back();
      for (const auto& [name, parameter] : network.parameters())
        gradients.back().push_back(parameter.grad().clone());
    }
    for (size_t i = 0; i < gradients[0].size(); ++i)
      EXPECT_TRUE(at::equal(gradients[0][i], gradients[1][i])) << i;
  });
}

TEST_P(GradReducerRanks, CountsWhichParametersBackwardReached) {
  const int size = GetParam();
  run_thread_ranks(size, [&](Communicator& comm) {
    at::Tensor used = at::ones({3}, at::kDouble).requires_grad_(),
               never = at::ones({2}, at::kDouble).requires_grad_();
    at::Tensor on_last = at::ones({4}, at::kDouble).requires_grad_();
    GradReducer reducer({{"used", used}, {"never", never}, {"on_last", on_last}}, comm,
                        {.bucket_bytes = 1});
    EXPECT_THROW((void)reducer.reached(used), Error);
    reducer.zero();
    reducer.begin(true);
    at::Tensor loss = used.sum() * (comm.rank() + 1);
    if (comm.rank() == size - 1) loss = loss + 6 * on_last.sum();
    loss.backward();
    reducer.finish();
    EXPECT_TRUE(reducer.reached(used));
    EXPECT_TRUE(reducer.reached(on_last)) << "one rank is enough";
    EXPECT_FALSE(reducer.reached(never));
    EXPECT_TRUE(at::allclose(used.grad(), at::full({3}, (size + 1) / 2., at::kDouble)));
    EXPECT_TRUE(at::allclose(on_last.grad(), at::full({4}, 6. / size, at::kDouble)));
    EXPECT_TRUE(at::equal(never.grad(), at::zeros({2}, at::kDouble)));

    // The counts are of this step, and micro-batches before the last one count.
    reducer.zero();
    reducer.begin(false);
    never.sum().backward();
    reducer.begin(true);
    used.sum().backward();
    reducer.finish();
    EXPECT_TRUE(reducer.reached(never));
    EXPECT_FALSE(reducer.reached(on_last));
  });
}

TEST(GradReducer, KeepsStridesAndStaysAView) {
  const auto comm = make_thread_comms(1)[0];
  const Network network;
  GradReducer reducer(network.parameters(), *comm);
  const void* before = network.conv.grad().data_ptr();
  EXPECT_EQ(network.conv.grad().strides(), network.conv.strides());
  EXPECT_TRUE(network.conv.grad().is_contiguous(at::MemoryFormat::ChannelsLast));
  for (int step = 0; step < 2; ++step) {
    reducer.zero();
    reducer.begin(true);
    network.loss(images_of(0, 0)).backward();
    reducer.finish();
    EXPECT_EQ(network.conv.grad().data_ptr(), before);
  }
}

TEST(GradReducer, MixesTypesInBucketsOfTheirOwn) {
  run_thread_ranks(2, [](Communicator& comm) {
    at::Tensor a = at::ones({3}).requires_grad_(), b = at::ones({2}, at::kDouble).requires_grad_();
    at::Tensor c = at::ones({5}, at::kBFloat16).requires_grad_();
    GradReducer reducer({{"a", a}, {"b", b}, {"c", c}}, comm);
    reducer.zero();
    reducer.begin(true);
    ((a.sum() + b.sum() + c.sum().to(at::kFloat)) * (2 * comm.rank() + 1)).backward();
    reducer.finish();
    for (const at::Tensor& parameter : {a, b, c}) {
      EXPECT_EQ(parameter.grad().scalar_type(), parameter.scalar_type());
      EXPECT_TRUE((parameter.grad() == 2).all().item<bool>());
      EXPECT_TRUE(reducer.reached(parameter));
    }
  });
}

TEST(GradReducer, RebuildTakesAnotherSet) {
  run_thread_ranks(2, [](Communicator& comm) {
    const Network network;
    GradReducer reducer({{"conv", network.conv}, {"bias", network.bias}}, comm);
    reducer.rebuild({{"linear", network.linear}, {"bias", network.bias}});
    EXPECT_FALSE(network.conv.grad().defined()) << "a frozen parameter has no gradient left";
    EXPECT_THROW((void)reducer.reached(network.conv), Error);
    reducer.zero();
    reducer.begin(true);
    const at::Tensor features = at::full({1, 4}, comm.rank() + 1., at::kDouble);
    at::linear(features, network.linear, network.bias).sum().backward();
    reducer.finish();
    EXPECT_TRUE(at::allclose(network.linear.grad(), at::full({5, 4}, 1.5, at::kDouble)));
    EXPECT_TRUE(at::allclose(network.bias.grad(), at::ones({5}, at::kDouble)));
    EXPECT_FALSE(network.conv.grad().defined());
  });
}

TEST(GradReducer, LeavesParametersAsTheyWere) {
  const auto comm = make_thread_comms(1)[0];
  const Network network;
  { GradReducer reducer(network.parameters(), *comm); }
  EXPECT_FALSE(network.conv.grad().defined());
  network.loss(images_of(0, 0)).backward();  // a hook left behind would touch freed memory
  EXPECT_TRUE(network.conv.grad().defined());
  { GradReducer again(network.parameters(), *comm); }
}

TEST(GradReducer, RefusesWhatItCannotReduce) {
  const auto comm = make_thread_comms(1)[0];
  const at::Tensor frozen = at::ones({2}), live = at::ones({2}).requires_grad_();
  EXPECT_THROW(GradReducer({{"frozen", frozen}}, *comm), Error);
  EXPECT_THROW(GradReducer({{"live", live}, {"again", live}}, *comm), Error);
  const GradReducer first({{"live", live}}, *comm);
  EXPECT_THROW(GradReducer({{"live", live}}, *comm), Error);
}

TEST(GradReducer, MisuseIsAnErrorAndNotAWrongGradient) {
  const auto comm = make_thread_comms(1)[0];
  at::Tensor weight = at::ones({2}).requires_grad_();
  {
    GradReducer reducer({{"weight", weight}}, *comm);
    reducer.zero();
    reducer.begin(true);
    weight.sum().backward();
    EXPECT_THROW(weight.sum().backward(), Error) << "a second backward into a bucket in flight";
    EXPECT_THROW(reducer.zero(), Error) << "before finish()";
    reducer.finish();
  }
  {
    GradReducer reducer({{"weight", weight}}, *comm);
    reducer.zero();
    weight.mutable_grad().reset();
    reducer.begin(true);
    EXPECT_THROW(weight.sum().backward(), Error) << "zero_grad(set_to_none)";
  }
}

}  // namespace
}  // namespace facetrain
