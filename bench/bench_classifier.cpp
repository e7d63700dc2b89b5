// The class-sharded classifier against an ATen composite that stores logits as arcface_torch does:
// milliseconds of forward + backward + SGD update, and memory beyond weights and momentum. Pairs
// alternate in one run; medians. With --device cuda the times include the device's, and both
// columns of memory are what its tensors held at most.
#include <malloc.h>
#include <torch/nn/functional/loss.h>
#include <torch/nn/functional/normalization.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>

#include "comm/plugin_loader.h"
#include "comm/thread_comm.h"
#include "core/torch.h"
#include "losses/sharded_classifier.h"
#include "tests/support/peak_memory.h"

namespace {

using namespace facetrain;  // NOLINT: a bench
using torch::Tensor;

struct Sizes {
  int64_t batch = 128, classes = 200000, dim = 512;
  int threads = 2, pairs = 5;
  double workspace_mb = 0;
  std::string gemm = "auto";
  c10::Device device = c10::kCPU;
};

// Momentum 0.9, decay 5e-4, the update in one fused pass, the same for both.
class Sgd {
 public:
  explicit Sgd(const Tensor& weight)
      : weight_(weight.detach()), momentum_(torch::zeros_like(weight_)) {}
  void step(const Tensor& gradient) {
    at::_fused_sgd_({weight_}, {gradient}, {momentum_}, 5e-4, 0.9, 0.1, 0.0, false, false, false);
  }

 private:
  Tensor weight_, momentum_;
};

// arcface_torch: normalise, GEMM (autocast to bf16 when reduced), clamp, margin on the target, fp32
// softmax in place of the logits, minus the one-hot, backward by autograd; the gradient of the rows
// is dense.
Tensor composite_loss(const Tensor& x, const Tensor& weight, const Tensor& label, bool reduced) {
  Tensor features = torch::nn::functional::normalize(x),
         rows = torch::nn::functional::normalize(weight);
  if (reduced) {
    features = features.to(torch::kBFloat16);
    rows = rows.to(torch::kBFloat16);
  }
  const Tensor cosine = torch::linear(features, rows).to(torch::kFloat).clamp(-1, 1);
  const Tensor own = torch::zeros_like(cosine).scatter_(1, label.unsqueeze(1), 0.4);
  return torch::nn::functional::cross_entropy((cosine - own) * 64, label);
}

void wait_for(c10::Device device) {
  if (device.is_cuda()) cuda_plugin().synchronize(device.index());
}

double milliseconds(c10::Device device, const std::function<void()>& body) {
  wait_for(device);
  const auto start = std::chrono::steady_clock::now();
  body();
  wait_for(device);
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}
double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Growth of the device's tensors over the body, bytes.
int64_t device_peak(c10::Device device, const std::function<void()>& body) {
  cuda_plugin().reset_peak_memory(device.index());
  const int64_t before = cuda_plugin().peak_memory(device.index());
  body();
  return cuda_plugin().peak_memory(device.index()) - before;
}

// Growth of the resident set's peak over the body, bytes: clear_refs 5 resets VmHWM.
int64_t resident_peak(const std::function<void()>& body) {
  const auto read = [](const std::string& key) {
    std::ifstream status("/proc/self/status");
    for (std::string word; status >> word;)
      if (word == key) {
        int64_t kilobytes = 0;
        status >> kilobytes;
        return kilobytes * 1024;
      }
    return int64_t{0};
  };
  malloc_trim(0);
  std::ofstream("/proc/self/clear_refs") << "5";
  const int64_t before = read("VmRSS:");
  body();
  return read("VmHWM:") - before;
}

void compare(const Sizes& sizes, bool reduced) {
  const auto comm = make_thread_comms(1)[0];
  ClassifierOptions options;
  options.classes = sizes.classes;
  options.workspace_mb = sizes.workspace_mb;
  options.gemm = sizes.gemm;
  ShardedClassifier ours(options, sizes.dim,
                         Margins::get().create(Config::parse("{name: cosface}")), *comm, 1);
  ours.to(sizes.device);
  if (sizes.device.is_cuda())
    torch::eye(8, sizes.device).mm(torch::eye(8, sizes.device));  // cuBLAS
  const Tensor weight = ours.weight.detach().clone().set_requires_grad(true);
  Sgd update_ours(ours.weight), update_theirs(weight);
  const Tensor positions = torch::arange(sizes.batch, torch::TensorOptions(sizes.device));
  const Tensor label = positions * 7919 % sizes.classes;
  const auto type = reduced ? torch::kBFloat16 : torch::kFloat;
  const Tensor x = torch::sin(torch::arange(sizes.batch * sizes.dim, torch::kFloat))
                       .view({sizes.batch, sizes.dim})
                       .to(sizes.device, type);
  const Tensor x_ours = x.clone().set_requires_grad(true),
               x_theirs = x.to(torch::kFloat).set_requires_grad(true);
  const std::vector<Tensor> labels{label};

  double loss_ours = 0, loss_theirs = 0, forward = 0, backward = 0, update = 0;
  const auto step_ours = [&] {
    ours.begin_step(labels, 0, 1, 1);
    Tensor loss;
    forward =
        milliseconds(sizes.device, [&] { loss = ours.forward(x_ours, label, positions).mean(); });
    backward = milliseconds(sizes.device, [&] { loss.backward(); });
    update = milliseconds(sizes.device, [&] { update_ours.step(ours.weight.grad()); });
    loss_ours = loss.item<double>();
  };
  const auto step_theirs = [&] {
    const Tensor loss = composite_loss(x_theirs, weight, label, reduced);
    loss.backward();
    update_theirs.step(weight.grad());
    weight.mutable_grad().reset();
    loss_theirs = loss.item<double>();
  };
  // Memory first: with nothing kept from an earlier step.
  int64_t peak_ours = 0, peak_theirs = 0;
  const auto peak_of = [&](const std::function<void()>& step, int64_t& tensors) {
    if (sizes.device.is_cuda()) return tensors = device_peak(sizes.device, step);
    return resident_peak([&] {
      const testing::PeakMemory peak;
      step();
      tensors = peak.bytes();
    });
  };
  const int64_t resident_ours = peak_of(step_ours, peak_ours);
  const int64_t resident_theirs = peak_of(step_theirs, peak_theirs);
  std::vector<double> times_ours, times_theirs, ratios, forwards, backwards, updates;
  for (int pair = 0; pair < sizes.pairs; ++pair) {
    times_ours.push_back(milliseconds(sizes.device, step_ours));
    forwards.push_back(forward);
    backwards.push_back(backward);
    updates.push_back(update);
    times_theirs.push_back(milliseconds(sizes.device, step_theirs));
    ratios.push_back(times_theirs.back() / times_ours.back());
  }
  const auto row = [&](const std::string& name, const std::vector<double>& times, int64_t peak,
                       int64_t resident, double loss) {
    fmt::print("{:<6} {:<10} {:>9.1f} {:>12.3f} {:>14.3f} {:>10.4f}\n", reduced ? "bf16" : "fp32",
               name, median(times), static_cast<double>(peak) / 1e9,
               static_cast<double>(resident) / 1e9, loss);
  };
  row("composite", times_theirs, peak_theirs, resident_theirs, loss_theirs);
  row("sharded", times_ours, peak_ours, resident_ours, loss_ours);
  fmt::print(
      "{:<6} ratio {:.2f} (median of {} pairs); sharded: forward {:.1f}, backward {:.1f}, update "
      "{:.1f} ms\n",
      reduced ? "bf16" : "fp32", median(ratios), sizes.pairs, median(forwards), median(backwards),
      median(updates));
}

}  // namespace

int main(int argc, char** argv) {
  Sizes sizes;
  std::string precision = "both", device = "cpu";
  CLI::App app("the class-sharded classifier against a composite that stores logits");
  app.add_option("--batch", sizes.batch, "rows")->capture_default_str();
  app.add_option("--classes", sizes.classes, "classes")->capture_default_str();
  app.add_option("--dim", sizes.dim, "embedding size")->capture_default_str();
  app.add_option("--threads", sizes.threads, "ATen threads")->capture_default_str();
  app.add_option("--pairs", sizes.pairs, "alternating pairs")->capture_default_str();
  app.add_option("--workspace-mb", sizes.workspace_mb, "memory of one chunk")
      ->capture_default_str();
  app.add_option("--gemm", sizes.gemm, "auto, fp32, bf16: for bf16 embeddings")
      ->capture_default_str();
  app.add_option("--precision", precision, "fp32, bf16 or both")->capture_default_str();
  app.add_option("--device", device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  if (device == "cuda") {
    sizes.device = c10::Device(c10::kCUDA, 0);
    try {
      cuda_plugin().set_device(0);
    } catch (const Error& error) {
      fmt::print(stderr, "{}\n", error.what());
      return 1;
    }
  }
  at::set_num_threads(sizes.threads);
  fmt::print("B = {}, C = {}, D = {}, {} threads; weights and momentum {:.2f} GB\n", sizes.batch,
             sizes.classes, sizes.dim, sizes.threads,
             8e-9 * static_cast<double>(sizes.classes * sizes.dim));
  fmt::print("{:<6} {:<10} {:>9} {:>12} {:>14} {:>10}\n", "", "", "ms", "tensors GB", "resident GB",
             "loss");
  if (precision != "bf16") compare(sizes, false);
  if (precision != "fp32") compare(sizes, true);
}
