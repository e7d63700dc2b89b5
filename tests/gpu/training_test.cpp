// Runs on a device: their losses against the CPU's, reduced precisions, resume bit for bit, and the
// loader's way through pinned memory.

#include <cmath>

#include "comm/thread_comm.h"
#include "core/step_context.h"
#include "core/torch.h"
#include "data/loader.h"
#include "tests/gpu/gpu.h"
#include "tests/gpu/small_run.h"
#include "tests/support/data_support.h"
#include "trainer/checkpoint.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

class Training : public gpu::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    write_tiny_faces(folder_->path() / "faces", 7, 6, 32);
  }
  static void TearDownTestSuite() { delete folder_; }
  static fs::path run(const std::string& name) { return folder_->path() / name; }
  static void train(const std::string& name, const std::vector<std::string>& overrides,
                    c10::Device device, bool resume = false) {
    const auto comm = make_thread_comms(1)[0];
    gpu::train(gpu::small_config(folder_->path(), name, overrides), *comm, device, resume);
  }
  static std::vector<double> losses(const std::string& name) { return gpu::losses(run(name)); }
  static void expect_equal_bits(const std::string& a, const std::string& b) {
    EXPECT_EQ(losses(a), losses(b));
    const auto one = gpu::tensors(run(a)), other = gpu::tensors(run(b));
    ASSERT_EQ(one.size(), other.size());
    for (const auto& [name, tensor] : one)
      EXPECT_TRUE(torch::equal(tensor, other.at(name))) << name;
  }

 private:
  static inline TemporaryFolder* folder_ = nullptr;
};

// Five steps at a learning rate that amplifies rounding little: on a CPU fp32 and fp64 differ by
// 3e-6 then. Without TF32, which convolutions use by default.
TEST_F(Training, InFp32FollowsTheCpu) {
  const at::NoTF32Guard full_fp32;
  for (const std::string variant : {"plain", "sync", "sampled"}) {
    SCOPED_TRACE(variant);
    std::vector<std::string> overrides;
    if (variant == "sync") overrides = {"model.batch_norm=sync"};
    if (variant == "sampled")
      overrides = {"classifier.sample_rate=0.5",
                   "optimizer.name=adamw",
                   "optimizer.lr=1e-5",
                   "trainer.clip=1",
                   "trainer.ema=0.9",
                   "trainer.accumulate=2"};
    train(variant + "_cpu", overrides, c10::kCPU);
    train(variant + "_gpu", overrides, gpu::kDevice);
    const auto found = losses(variant + "_gpu"), wanted = losses(variant + "_cpu");
    ASSERT_EQ(found.size(), 5u);
    EXPECT_NEAR(found[0] / wanted[0], 1, 5e-5);
    for (size_t i = 0; i < 5; ++i) EXPECT_NEAR(found[i] / wanted[i], 1, 1e-3) << "step " << i + 1;
  }
}

TEST_F(Training, InBf16AndFp16StaysFiniteAndNearFp32) {
  train("fp32", {}, gpu::kDevice);
  const auto wanted = losses("fp32");
  for (const std::string precision : {"bf16", "fp16"}) {
    SCOPED_TRACE(precision);
    train(precision, {"trainer.precision=" + precision, "trainer.steps=16"}, gpu::kDevice);
    const auto found = losses(precision);
    ASSERT_EQ(found.size(), 16u);
    EXPECT_NEAR(found[0] / wanted[0], 1, 0.05);
    for (const double loss : found) EXPECT_TRUE(std::isfinite(loss));
    const TrainState state = read_meta(*newest_checkpoint(run(precision))).state;
    EXPECT_EQ(state.updates + state.skipped, 16);
    EXPECT_GE(state.updates, 6);  // the first fp16 scale may be too large, by 2^10 at most
    EXPECT_GE(state.loss_scale, 1);
    if (precision == "bf16") {
      EXPECT_EQ(state.skipped, 0);
    }
  }
}

TEST_F(Training, LossFallsInBf16) {
  train("learns",
        {"trainer.precision=bf16", "trainer.steps=60", "data.batch_size=21", "loss.margin=0",
         "optimizer.lr=0.05"},
        gpu::kDevice);
  const auto curve = losses("learns");
  EXPECT_LT(curve.back(), 0.5 * curve.front());
}

// Deterministic algorithms from here to the end of the scope.
class ResetDeterminism {
 public:
  ~ResetDeterminism() {
    at::globalContext().setDeterministicAlgorithms(false, false);
    at::globalContext().setDeterministicCuDNN(false);
  }
};

TEST_F(Training, DeterministicRunsAndResumesHaveTheSameBits) {
  const ResetDeterminism reset;
  for (const std::string precision : {"fp32", "bf16", "fp16"}) {
    SCOPED_TRACE(precision);
    const std::vector<std::string> overrides{
        "trainer.deterministic=true", "trainer.precision=" + precision, "trainer.ema=0.9",
        "trainer.accumulate=2",       "classifier.sample_rate=0.5",     "trainer.steps=6"};
    train("whole_" + precision, overrides, gpu::kDevice);
    auto with_checkpoints = overrides;
    with_checkpoints.push_back("checkpoint.every=4");
    const std::string cut = "cut_" + precision;
    train(cut, with_checkpoints, gpu::kDevice);
    expect_equal_bits("whole_" + precision, cut);
    fs::remove_all(run(cut) / "step_000000006");
    ASSERT_EQ(newest_checkpoint(run(cut))->filename(), "step_000000004");
    train(cut, with_checkpoints, gpu::kDevice, /*resume=*/true);
    expect_equal_bits("whole_" + precision, cut);
  }
}

TEST_F(Training, ACheckpointOfTheCpuGoesOnOnTheDevice) {
  train("moved", {"checkpoint.every=3"}, c10::kCPU);
  fs::remove_all(run("moved") / "step_000000005");
  const at::NoTF32Guard full_fp32;
  train("moved", {"checkpoint.every=3"}, gpu::kDevice, /*resume=*/true);
  train("stayed", {}, c10::kCPU);
  const auto found = losses("moved"), wanted = losses("stayed");
  ASSERT_EQ(found.size(), 5u);
  EXPECT_NEAR(found[3] / wanted[3], 1, 5e-5);
}

class TrainingParts : public gpu::Test {};

TEST_F(TrainingParts, TheLoaderBringsTheSameBatchesThroughPinnedMemory) {
  const auto batches_on = [](c10::Device device) {
    const auto source = std::make_shared<MemorySource>(97, 5);
    SamplerInput input;
    input.sets = {source};
    input.seed = 3;
    input.batch_size = 24;
    Config shuffle;
    shuffle.set_default_name("shuffle");
    LoaderOptions options;
    options.batch_size = 24;
    options.accumulate = 2;
    options.workers = 3;
    options.device = device;
    Loader loader({source}, Samplers::get().create(shuffle, input), {}, options);
    std::vector<Batch> all;
    for (int step = 0; step < 20; ++step)
      for (Batch& batch : loader.next()) all.push_back(std::move(batch));
    return all;
  };
  const auto found = batches_on(gpu::kDevice), wanted = batches_on(c10::kCPU);
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t i = 0; i < found.size(); ++i) {
    EXPECT_TRUE(torch::equal(found[i].position.cpu(), wanted[i].position));
    ASSERT_EQ(found[i].fields.size(), wanted[i].fields.size());
    for (const auto& [name, tensor] : found[i].fields) {
      EXPECT_TRUE(tensor.is_cuda()) << name;
      EXPECT_TRUE(torch::equal(tensor.cpu(), wanted[i][name])) << name << " of batch " << i;
    }
  }
}

TEST_F(TrainingParts, ImagesAreNormalisedAsOnTheCpu) {
  const auto images =
      torch::arange(3 * 5 * 7 * 3).remainder(256).to(torch::kByte).view({3, 5, 7, 3});
  const Normalization odd{{1, 2, 3}, {4, 5, 6}};
  for (const auto type : {torch::kFloat, torch::kDouble, torch::kBFloat16, torch::kHalf}) {
    const auto found = normalise(images.to(gpu::kDevice), odd, type);
    const auto wanted = normalise(images, odd, type);
    EXPECT_TRUE(found.is_contiguous(at::MemoryFormat::ChannelsLast));
    EXPECT_TRUE(
        torch::allclose(found.cpu().to(torch::kDouble), wanted.to(torch::kDouble), 1e-6, 1e-6))
        << toString(type);
  }
}

TEST_F(TrainingParts, DrawsOfASampleAreTheCpusBits) {
  const auto positions = torch::tensor({int64_t{0}, int64_t{7}, int64_t{123456789012}});
  const auto draw = [&](const torch::Tensor& at) {
    const StepScope step({42, 3, 10, 1, at});
    return sample_uniform(1001, "dropout");
  };
  EXPECT_TRUE(torch::equal(draw(positions.to(gpu::kDevice)).cpu(), draw(positions)));
}

}  // namespace
}  // namespace facetrain
