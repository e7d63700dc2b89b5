// TorchScript: the traced network with its public parameter names, for programs that load it with
// torch.jit.load or LibTorch. Input `data` [B, 3, S, S], normalised; output the embedding [B, D].
// PyTorch calls the format deprecated: safetensors and ONNX are those to keep.
#include <torch/csrc/jit/serialization/import.h>

#include <sstream>

#include "core/check.h"
#include "core/durable_file.h"
#include "export/exporter.h"
#include "export/torchscript.h"
#include "export/trace.h"

namespace facetrain {
namespace {

struct TorchScriptExportOptions {
  void fields(auto&) {}
};

class TorchScriptExporter : public Exporter {
 public:
  explicit TorchScriptExporter(const TorchScriptExportOptions&) {}
  std::vector<std::string> extensions() const override { return {".pt"}; }

  void write(Backbone& network, const ExportInfo& info,
             const std::filesystem::path& file) const override {
    std::ostringstream bytes;
    trace_network(network).save(bytes, {{kScriptConfig, info.config},
                                        {kScriptOrigin, info.origin},
                                        {kScriptSize, std::to_string(network.image_size())}});
    const std::string_view written = bytes.view();
    DurableFile out(file);
    out.write(written.data(), written.size(), 0);
    out.publish();
  }

  // Every public name with its bits, what was written beside, and the outputs of the loaded graph.
  void verify(Backbone& network, const ExportInfo& info,
              const std::filesystem::path& file) const override {
    torch::jit::Module module = torch::jit::load(file.string(), c10::kCPU);
    const ScriptFile beside = read_script_info(file);
    FT_CHECK(beside.config == info.config && beside.origin == info.origin &&
                 beside.image_size == network.image_size(),
             "{}: reading it back gave another configuration than was written", file.string());
    std::map<std::string, torch::Tensor> found;
    for (const auto& item : module.named_parameters()) found[item.name] = item.value;
    for (const auto& item : module.named_buffers()) found[item.name] = item.value;
    for (const auto& [name, tensor] : public_tensors(network))
      FT_CHECK(found.contains(name) && same_bits(found[name], tensor),
               "{}: reading '{}' back gave other values than were written", file.string(), name);
    check_same_outputs(
        network, [&module](const torch::Tensor& images) { return run_script(module, images); },
        fmt::format("{}: it was written, and what was read back", file.string()));
  }
};

const bool registered = Exporters::get().add<TorchScriptExporter, TorchScriptExportOptions>(
    "torchscript", "the network as a program for LibTorch and torch.jit.load; deprecated there");

}  // namespace
}  // namespace facetrain
