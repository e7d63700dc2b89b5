// Images per second of one training step of a network, phase by phase: forward and backward.
//
//   bench_step --model iresnet50 --size 112 --batch 32 --precision bf16 --threads 2
//   bench/step_witness.py --against build/release/bench/bench_step ...   the ratio to eager PyTorch
#include <ATen/autocast_mode.h>
#include <fmt/format.h>
#include <torch/torch.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <functional>

#include "core/check.h"
#include "core/deferred.h"
#include "models/backbone.h"
#include "models/layers.h"

namespace facetrain {
namespace {

struct Flags {
  std::string model = "iresnet18", precision = "fp32";
  double width = 1;
  int64_t size = 112, batch = 32, threads = 2, steps = 10, warm_up = 3;
};

Flags parse(int argc, char** argv) {
  Flags flags;
  CLI::App app("Images per second of a training step, phase by phase");
  app.add_option("--model", flags.model, "name of a network");
  app.add_option("--width", flags.width, "factor on its channels");
  app.add_option("--size", flags.size, "pixels a side");
  app.add_option("--batch", flags.batch, "images a step");
  app.add_option("--precision", flags.precision)->check(CLI::IsMember({"fp32", "bf16"}));
  app.add_option("--threads", flags.threads, "threads of ATen");
  app.add_option("--steps", flags.steps, "steps that are timed");
  app.add_option("--warm-up", flags.warm_up, "steps before them");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app.exit(error));
  }
  return flags;
}

// bf16 autocast on the CPU for the lifetime of this object, as torch.autocast does it.
class Autocast {
 public:
  explicit Autocast(bool on) : on_(on) {
    if (!on_) return;
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    at::autocast::set_autocast_enabled(at::kCPU, true);
  }
  ~Autocast() {
    if (!on_) return;
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
  }

 private:
  bool on_;
};

// One part of a step; parts run in order, and each is timed alone.
struct Phase {
  std::string name;
  std::function<void()> run;
  std::vector<double> seconds;
};

double seconds_of(const std::function<void()>& action) {
  const auto start = std::chrono::steady_clock::now();
  action();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<long>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

void measure(std::vector<Phase>& phases, const Flags& flags) {
  for (int64_t step = 0; step < flags.warm_up + flags.steps; ++step)
    for (auto& phase : phases) {
      const double seconds = seconds_of(phase.run);
      if (step >= flags.warm_up) phase.seconds.push_back(seconds);
    }
}

void print(const std::vector<Phase>& phases, const Flags& flags) {
  const auto line = [&](const std::string& name, const std::vector<double>& seconds) {
    fmt::print("{:<10} {:9.1f} ms {:10.1f} img/s\n", name, median(seconds) * 1e3,
               static_cast<double>(flags.batch) / median(seconds));
  };
  std::vector<double> whole(phases.front().seconds.size(), 0);
  for (const auto& phase : phases) {
    line(phase.name, phase.seconds);
    for (size_t i = 0; i < whole.size(); ++i) whole[i] += phase.seconds[i];
  }
  line("step", whole);
}

void run(const Flags& flags) {
  at::set_num_threads(static_cast<int>(flags.threads));
  auto section = Config::parse(fmt::format("name: {}\nwidth: {}", flags.model, flags.width));
  auto network = create_backbone(section, {.seed = 1, .image_size = flags.size});
  to_channels_last(*network);
  const auto images = torch::randn({flags.batch, 3, flags.size, flags.size})
                          .contiguous(at::MemoryFormat::ChannelsLast);
  torch::Tensor loss;
  std::vector<Phase> phases;
  phases.push_back({"forward",
                    [&] {
                      const Autocast autocast(flags.precision == "bf16");
                      loss = network->forward(images).embedding.square().mean();
                    },
                    {}});
  phases.push_back({"backward",
                    [&] {
                      for (auto& parameter : network->parameters())
                        parameter.mutable_grad() = torch::Tensor();
                      loss.backward();
                      for (const auto& module : network->modules())
                        if (auto* part = dynamic_cast<Deferred*>(module.get())) part->commit();
                    },
                    {}});
  measure(phases, flags);
  print(phases, flags);
}

}  // namespace
}  // namespace facetrain

int main(int argc, char** argv) {
  try {
    facetrain::run(facetrain::parse(argc, argv));
  } catch (const facetrain::Error& error) {
    fmt::print(stderr, "{}: {}\n", error.place(), error.what());
    return 1;
  }
}
