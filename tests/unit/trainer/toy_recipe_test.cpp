// What the interfaces carry beyond recognition, shown by a recipe that is registered here alone: a
// second stream, a frozen module, dropout drawn from the step's context, a loss term with its own
// count, and class rows that update themselves.
#include <gtest/gtest.h>

#include "comm/collectives.h"
#include "comm/thread_comm.h"
#include "core/freeze.h"
#include "models/init_weights.h"
#include "models/layers.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"
#include "trainer/run.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

constexpr int64_t kRows = 7;

// A tiny trunk: mean colour of an image, dropped out, through a linear layer.
struct ToyBackbone : Backbone {
  ToyBackbone() : Backbone(CommonModelOptions{}) {
    linear = register_module("linear", Linear(3, 4));
    dropout = register_module("dropout", Dropout(0.5, "toy"));
    init_normal(linear->weight, 5, "linear.weight", 0, 1);
    init_normal(linear->bias, 5, "linear.bias", 0, 1);
  }
  Features forward(const torch::Tensor& images) override {
    return {linear(dropout(images.mean(torch::IntArrayRef{2, 3}))), {}, {}};
  }
  int64_t dim() const override { return 4; }
  int64_t image_size() const override { return 16; }
  Linear linear{nullptr};
  Dropout dropout{nullptr};
};

// A batch norm that is frozen as a whole: it must keep neither statistics nor gradients.
struct FrozenTeacher : torch::nn::Module, FreezePolicy {
  FrozenTeacher() { norm = register_module("norm", BatchNorm(3)); }
  std::vector<std::string> frozen() const override { return {"*"}; }
  BatchNorm norm{nullptr};
};

// Rows w of which each rank holds some; their loss is ½ Σ w², whose gradient is w. The module
// applies its own update.
struct OwnRows : torch::nn::Module, ShardOwner, OwnUpdate {
  explicit OwnRows(Communicator& comm) : slice(slice_of(kRows, comm.rank(), comm.size())) {
    weight = register_parameter(
        "weight", torch::arange(slice.begin, slice.end, torch::kFloat).unsqueeze(1) + 1);
    momentum = torch::zeros({slice.size(), 1}, torch::kDouble);
  }
  std::vector<ShardedParameter> sharded() const override {
    return {{"weight", slice.begin, slice.end, kRows}};
  }
  void set_update(const UpdateSettings& settings) override {
    told.push_back(settings);
    if (!settings.last_micro_batch) return;
    const torch::NoGradGuard no_grad;
    momentum.mul_(settings.momentum).add_(weight);
    weight.sub_(momentum * settings.lr);
  }
  std::vector<std::string> own_parameters() const override { return {"weight"}; }
  std::vector<State> own_state() override { return {{"weight", "momentum", momentum}}; }
  Slice slice;
  torch::Tensor weight, momentum;
  std::vector<UpdateSettings> told;
};

struct ToyOptions {
  void fields(auto&) {}
};
struct Toy : Recipe {
  static constexpr const char* kSections[] = {"model"};
  Toy(const ToyOptions&, const RecipeContext& context) {
    backbone = register_module("backbone", std::make_shared<ToyBackbone>());
    teacher = register_module("teacher", std::make_shared<FrozenTeacher>());
    rows = register_module("rows", std::make_shared<OwnRows>(context.comm));
    seen = register_buffer("seen", torch::zeros({}, torch::kLong));
  }
  std::vector<std::string> streams() const override { return {"second"}; }
  // Only even labels count for the second term.
  std::map<std::string, double> counts(std::span<const Batch> batches) const override {
    double even = 0;
    for (const auto& batch : batches) even += even_rows(batch).sum().item<double>();
    return {{"even", even}};
  }
  StepOutput step(const Batch& batch, const Progress&) override {
    const auto images = normalise(batch["image"], {}, torch::kDouble);
    teacher->norm(images);
    const auto features = backbone->forward(images).embedding;
    const Batch& second = batch.streams.at("second");
    EXPECT_EQ(second["image"].size(1), 8);
    const auto other = normalise(second["image"], {}, torch::kDouble).mean();
    StepOutput out;
    out.terms.push_back({"loss", features.square().sum(), 1});
    out.terms.push_back({"even", (features.sum(1) * even_rows(batch)).sum(), 0.5});
    out.metrics.add("second", other * second.rows, static_cast<double>(second.rows));
    return out;
  }
  void after_update(const Progress&) override { seen.add_(1); }
  Backbone& exported() override { return *backbone; }
  static torch::Tensor even_rows(const Batch& batch) {
    return (batch["identity"] % 2 == 0).to(torch::kDouble);
  }
  std::shared_ptr<ToyBackbone> backbone;
  std::shared_ptr<FrozenTeacher> teacher;
  std::shared_ptr<OwnRows> rows;
  torch::Tensor seen;
};
const bool registered =
    Recipes::get().add<Toy, ToyOptions>("toy_of_a_test", "interfaces beyond recognition");

class ToyRun : public ::testing::Test {
 protected:
  ToyRun() {
    write_tiny_faces(folder.path() / "faces", 5, 4, 16);
    write_tiny_faces(folder.path() / "small", 3, 6, 8);
  }
  Config config(const std::string& run, std::vector<std::string> overrides = {}) {
    Config result = Config::parse(fmt::format(R"(
run: {0}/{1}
recipe: {{name: toy_of_a_test}}
data:
  train: 'folder:{0}/faces'
  batch_size: 9
  streams: {{second: {{train: 'folder:{0}/small', batch_size: 6, size: 8, flip: false}}}}
optimizer: {{name: sgd, lr: 0.01, momentum: 0, weight_decay: 0}}
schedule: {{name: constant}}
trainer: {{steps: 4, precision: fp64}}
checkpoint: {{every: 2}}
log: {{every: 1}}
)",
                                              folder.path().string(), run),
                                  "toy.yaml");
    result.override_with(overrides);
    resolve_config(result);
    return result;
  }
  void train(const Config& config, int ranks, bool resume = false) {
    run_thread_ranks(ranks, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), ranks);
      run_training({config, resume, false}, {comm, c10::kCPU, "thread ranks"});
    });
  }
  std::map<std::string, torch::Tensor> tensors(const std::string& run) {
    std::map<std::string, torch::Tensor> all;
    const auto checkpoint = *newest_checkpoint(folder.path() / run);
    const SafetensorsFile model(checkpoint / "model.safetensors");
    for (const auto& [name, info] : model.tensors()) all[name] = model.read(name);
    for (const std::string name : {"rows.weight", "rows.weight.momentum"}) {
      std::vector<torch::Tensor> parts;
      for (int rank = 0; fs::exists(checkpoint / fmt::format("rows_{}.safetensors", rank)); ++rank)
        parts.push_back(
            SafetensorsFile(checkpoint / fmt::format("rows_{}.safetensors", rank)).read(name));
      all[name] = torch::cat(parts);
    }
    return all;
  }
  static void expect_close(const std::map<std::string, torch::Tensor>& a,
                           const std::map<std::string, torch::Tensor>& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, tensor] : a)
      EXPECT_TRUE(
          torch::allclose(tensor.to(torch::kDouble), b.at(name).to(torch::kDouble), 1e-10, 1e-10))
          << name;
  }
  TemporaryFolder folder;
};

TEST_F(ToyRun, IsTheSameAtAnyWorldSizeMicroBatchingAndResume) {
  for (int ranks = 1; ranks <= 3; ++ranks) train(config("r" + std::to_string(ranks)), ranks);
  train(config("cut", {"trainer.accumulate=3"}), 2);
  const auto one = tensors("r1");
  for (const std::string run : {"r2", "r3", "cut"}) expect_close(one, tensors(run));

  fs::remove_all(folder.path() / "r3" / "step_000000004");
  train(config("r3"), 2, /*resume=*/true);
  expect_close(one, tensors("r3"));
}

TEST_F(ToyRun, OwnUpdatesFrozenModulesAndBuffersDoWhatTheySay) {
  train(config("run"), 2);
  const auto all = tensors("run");
  // w <- w - lr w, four times; momentum 0 keeps the last gradient: closed form.
  const auto start = torch::arange(1, kRows + 1, torch::kDouble).unsqueeze(1);
  EXPECT_TRUE(torch::allclose(all.at("rows.weight"), start * std::pow(0.99, 4), 1e-12));
  EXPECT_TRUE(torch::allclose(all.at("rows.weight.momentum"), start * std::pow(0.99, 3), 1e-12));
  EXPECT_EQ(all.at("seen").item<int64_t>(), 4);
  EXPECT_EQ(all.at("teacher.norm.num_batches_tracked").item<int64_t>(), 0);
  EXPECT_TRUE((all.at("teacher.norm.running_mean") == 0).all().item<bool>());
  EXPECT_TRUE((all.at("teacher.norm.weight") == 1).all().item<bool>());
}

TEST_F(ToyRun, StreamsThatNobodyTakesOrGivesAreErrors) {
  const auto message = [&](std::vector<std::string> overrides) {
    return error_of([&] { train(config("bad", std::move(overrides)), 1); });
  };
  EXPECT_NE(message({"data.streams={}"}).find("wants a stream 'second'"), std::string::npos);
  EXPECT_NE(message({"data.streams.third.train=folder:x"}).find("takes no stream of this name"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(folder.path() / "bad"));
}

}  // namespace
}  // namespace facetrain
