// Images per second of a recognition step, phase by phase: forward, backward, reduce, update. The
// recipe, reducer and optimizer are the program's own; reduction waits for the end of backward so
// that it can be timed alone, and the last line shows the step with the two overlapped.
//
//   bench_step --model iresnet50 --size 112 --batch 32 --precision bf16 --threads 2
//   mpirun -np 2 bench_step --batch 64 ...              the batch is that of all ranks
//   bench/step_witness.py --against build/release/bench/bench_step ...   the ratio to eager PyTorch
#include <fmt/format.h>
#include <torch/cuda.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>

#include "comm/collectives.h"
#include "comm/grad_reducer.h"
#include "comm/world.h"
#include "core/deferred.h"
#include "core/step_context.h"
#include "core/torch.h"
#include "models/layers.h"
#include "trainer/optimizer.h"
#include "trainer/precision.h"
#include "trainer/recipe.h"
#include "trainer/run_options.h"

namespace facetrain {
namespace {

struct Flags {
  std::string model = "iresnet18", precision = "fp32", device = "cpu";
  double width = 1;
  int64_t size = 112, batch = 32, classes = 1000, threads = 2, steps = 10, warm_up = 3;
};

Flags parse(int argc, char** argv) {
  Flags flags;
  CLI::App app("Images per second of a training step, phase by phase");
  app.add_option("--model", flags.model, "name of a network");
  app.add_option("--width", flags.width, "factor on its channels");
  app.add_option("--size", flags.size, "pixels a side");
  app.add_option("--batch", flags.batch, "images a step, over all ranks");
  app.add_option("--classes", flags.classes, "identities of the classifier");
  app.add_option("--precision", flags.precision)->check(CLI::IsMember({"fp32", "bf16", "fp16"}));
  app.add_option("--device", flags.device, "cpu or cuda");
  app.add_option("--threads", flags.threads, "threads of ATen, a rank");
  app.add_option("--steps", flags.steps, "steps that are timed");
  app.add_option("--warm-up", flags.warm_up, "steps before them");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  return flags;
}

// A recognition run without its data and checkpoints.
class Bench {
 public:
  Bench(const Flags& flags, World& world)
      : flags_(flags),
        world_(world),
        precision_(parse_precision(flags.precision, world.device())),
        config_(Config::parse(
            fmt::format("recipe: {{name: recognition}}\nmodel: {{name: {}, width: {}}}\n"
                        "loss: {{name: cosface}}\nclassifier: {{classes: {}}}\n"
                        "optimizer: {{name: sgd, lr: 0.01, momentum: 0.9, weight_decay: 5e-4}}",
                        flags.model, flags.width, flags.classes))) {
    resolve_config(config_);
    recipe_ = Recipes::get().create(
        config_.section("recipe"),
        RecipeContext{config_, world.comm(), world.device(), 1, flags.classes, flags.size,
                      Normalization::parse(config_.section("data").section("normalize"))});
    recipe_->to(world.device());
    to_channels_last(*recipe_);
    recipe_->train();
    parameters_ = list_parameters(*recipe_, {});
    optimizer_ = Optimizers::get().create(config_.section("optimizer"), parameters_.trained);
    const Slice share = slice_of(flags.batch, world.comm().rank(), world.comm().size());
    const auto on = torch::TensorOptions().device(world.device());
    batch_.fields["image"] =
        torch::randint(256, {share.size(), flags.size, flags.size, 3}, on.dtype(torch::kByte));
    batch_.fields["identity"] =
        torch::randint(flags.classes, {share.size()}, on.dtype(torch::kLong));
    batch_.position = torch::arange(share.begin, share.end, on.dtype(torch::kLong));
    batch_.rows = share.size();
    batch_.global_rows = flags.batch;
  }

  // Milliseconds of each phase, a list a phase, with reduction overlapping backward or after it.
  std::map<std::string, std::vector<double>> measure(bool overlap) {
    GradReducer reducer(parameters_.replicated(), world_.comm(), {16 << 20, overlap});
    std::map<std::string, std::vector<double>> seconds;
    for (int64_t step = 0; step < flags_.warm_up + flags_.steps; ++step) {
      world_.comm().barrier();
      const auto start = Clock::now();
      auto last = start;
      const auto phase = [&](const std::string& name) {
        if (world_.device().is_cuda()) torch::cuda::synchronize();
        const auto now = Clock::now();
        if (step >= flags_.warm_up)
          seconds[name].push_back(std::chrono::duration<double>(now - last).count());
        last = now;
      };
      const Progress at{step, 1000, 100};
      recipe_->prepare({&batch_, 1}, at);
      reducer.zero();
      for (auto* owner : parameters_.owners) owner->zero_grad_rows();
      reducer.begin(true);
      torch::Tensor loss;
      {
        const StepScope scope({1, step, 1000, 0, batch_.position});
        const AutocastScope autocast(precision_, world_.device());
        loss = recipe_->step(batch_, at).terms.front().sum;
      }
      phase("forward");
      (loss * (static_cast<double>(world_.comm().size()) / static_cast<double>(flags_.batch)))
          .backward();
      phase("backward");
      reducer.finish();
      phase("reduce");
      optimizer_->step(
          {0.01, step + 1, [&](const torch::Tensor& p) { return reducer.reached(p); }});
      for (const auto& module : recipe_->modules())
        if (auto* part = dynamic_cast<Deferred*>(module.get())) part->commit();
      phase("update");
      last = start;
      phase("step");
    }
    return seconds;
  }

 private:
  using Clock = std::chrono::steady_clock;
  Flags flags_;
  World& world_;
  Precision precision_;
  Config config_;
  std::shared_ptr<Recipe> recipe_;
  ParameterList parameters_;
  std::shared_ptr<Optimizer> optimizer_;
  Batch batch_;
};

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void run(const Flags& flags) {
  const auto world =
      World::create({.device = flags.device, .threads = static_cast<int>(flags.threads)});
  Bench bench(flags, *world);
  const auto apart = bench.measure(false), overlapped = bench.measure(true);
  if (world->comm().rank() != 0) return;
  const auto line = [&](const std::string& name, const std::vector<double>& seconds) {
    const double middle = median(seconds);
    fmt::print("{:<10} {:9.1f} ms {:10.1f} img/s\n", name, middle * 1e3,
               static_cast<double>(flags.batch) / middle);
  };
  fmt::print("{} width {:g}, {} px, batch {}, {} classes, {}; {}\n", flags.model, flags.width,
             flags.size, flags.batch, flags.classes, flags.precision, world->describe());
  for (const char* name : {"forward", "backward", "reduce", "update"}) line(name, apart.at(name));
  line("apart", apart.at("step"));
  line("step", overlapped.at("step"));
}

}  // namespace
}  // namespace facetrain

int main(int argc, char** argv) {
  const auto flags = facetrain::parse(argc, argv);
  try {
    facetrain::run(flags);
  } catch (const std::exception& error) {
    facetrain::fail_world(1, error.what());
  }
}
