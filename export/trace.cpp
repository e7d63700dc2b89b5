#include "export/trace.h"

#include <torch/csrc/jit/frontend/tracer.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include <algorithm>

#include "core/check.h"

namespace facetrain {
namespace {

constexpr int64_t kTracedBatch = 2;

// The tree of nn::Module as one of jit::Module, with the same tensors under the same names.
torch::jit::Module mirror(const torch::nn::Module& from, const std::string& type_name,
                          const std::shared_ptr<torch::jit::CompilationUnit>& unit) {
  torch::jit::Module to(c10::QualifiedName("__torch__.facetrain." + type_name), unit,
                        /*shouldMangle=*/true);
  to.register_attribute("training", c10::BoolType::get(), false);
  for (const auto& item : from.named_parameters(/*recurse=*/false))
    to.register_parameter(item.key(), item.value(), /*is_buffer=*/false);
  for (const auto& item : from.named_buffers(/*recurse=*/false))
    to.register_buffer(item.key(), item.value());
  for (const auto& item : from.named_children())
    to.register_module(item.key(), mirror(*item.value(), type_name + "_" + item.key(), unit));
  return to;
}

}  // namespace

torch::Tensor run_script(torch::jit::Module& module, const torch::Tensor& images) {
  const torch::jit::GraphOptimizerEnabledGuard plain(false);
  const auto output = module.forward({images});
  FT_CHECK(output.isTensor(), "wanted one tensor from the TorchScript network, found {}",
           output.tagKind());
  return output.toTensor();
}

torch::Tensor probe_images(const Backbone& network, int64_t batch) {
  const int64_t side = network.image_size();
  const auto type = network.parameters().front().scalar_type();
  // Golden-ratio steps: no two pixels alike, and no generator.
  const auto steps = torch::arange(batch * 3 * side * side, torch::kDouble) * 0.6180339887498949;
  return ((steps - steps.floor()) * 2 - 1).view({batch, 3, side, side}).to(type);
}

void check_same_outputs(Backbone& network,
                        const std::function<torch::Tensor(const torch::Tensor&)>& forward,
                        const std::string& what) {
  const torch::NoGradGuard no_grad;
  for (const int64_t batch : {1, 3}) {
    const auto images = probe_images(network, batch);
    const auto expected = network.forward(images).embedding;
    torch::Tensor found;
    try {
      found = forward(images);
    } catch (const std::exception& error) {
      FT_FAIL("{} cannot run {} images (does a forward use their number?): {}", what, batch,
              reason_of(error));
    }
    FT_CHECK(found.sizes() == expected.sizes(), "{} gives [{}] for {} images, the network [{}]",
             what, fmt::join(found.sizes(), ", "), batch, fmt::join(expected.sizes(), ", "));
    const double scale = expected.abs().nan_to_num(0, 0, 0).max().item<double>();
    FT_CHECK(torch::allclose(found, expected, /*rtol=*/0, /*atol=*/1e-5 * scale, true),
             "{} gives other embeddings than the network for {} images: they differ by {:.3g} and "
             "the largest is {:.3g}",
             what, batch, (found - expected).abs().max().item<double>(), scale);
  }
}

std::string reason_of(const std::exception& error) {
  const auto* detailed = dynamic_cast<const c10::Error*>(&error);
  std::string text = detailed ? detailed->what_without_backtrace() : error.what();
  // The interpreter's exception ends in the line that it is about.
  text.erase(text.find_last_not_of("\n ") + 1);
  const size_t line = detailed ? std::string::npos : text.rfind('\n');
  if (line != std::string::npos) text.erase(0, line + 1);
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

torch::jit::Module trace_network(Backbone& network) {
  FT_CHECK(!network.is_training(), "a network is traced in eval mode: call eval() first");
  const torch::NoGradGuard no_grad;
  const auto unit = std::make_shared<torch::jit::CompilationUnit>();
  torch::jit::Module module = mirror(network, "Network", unit);
  const auto forward = [&](torch::jit::Stack inputs) -> torch::jit::Stack {
    return {network.forward(inputs[0].toTensor()).embedding};
  };
  const auto traced =
      torch::jit::tracer::trace({probe_images(network, kTracedBatch)}, forward,
                                [](const torch::Tensor&) { return std::string(); }, /*strict=*/true,
                                /*force_outplace=*/false, &module, {"data"});
  const auto function = unit->create_function(c10::QualifiedName(*module.type()->name(), "forward"),
                                              traced.first->graph);
  module.type()->addMethod(function);
  check_same_outputs(
      network, [&](const torch::Tensor& images) { return run_script(module, images); },
      "the network was traced, and its graph");
  return module;
}

}  // namespace facetrain
