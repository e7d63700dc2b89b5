// ONNX: input `data` [batch, 3, S, S], output `embedding` [batch, D], any number of images; how the
// input is made stands in the metadata. Weights have their public names and their own bits: batch
// norms are not folded into convolutions (runtimes do that as they load).
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/check.h"
#include "core/durable_file.h"
#include "export/exporter.h"
#include "export/onnx_convert.h"
#include "export/onnx_run.h"
#include "export/trace.h"

namespace facetrain {
namespace {

struct OnnxExportOptions {
  void fields(auto&) {}
};

// Where the eyes, the nose tip and the corners of the mouth lie in an aligned face (pixels, x y, in
// the order of `landmarks5`): insightface's five points for 112 x 112, scaled as its face_align.py
// does.
std::vector<std::array<double, 2>> face_template(int64_t size) {
  std::vector<std::array<double, 2>> points{{38.2946, 51.6963},
                                            {73.5318, 51.5014},
                                            {56.0252, 71.7366},
                                            {41.5493, 92.3655},
                                            {70.7299, 92.2041}};
  const bool wide = size % 112 != 0 && size % 128 == 0;
  const double scale = static_cast<double>(size) / (wide ? 128 : 112);
  for (auto& [x, y] : points) {
    x = std::round((x + (wide ? 8 : 0)) * scale * 1e4) / 1e4;
    y = std::round(y * scale * 1e4) / 1e4;
  }
  return points;
}

std::map<std::string, std::string> metadata_of(const Backbone& network, const ExportInfo& info) {
  return {{"facetrain.config", info.config},
          {"facetrain.origin", info.origin},
          {"input.color_order", "RGB"},
          {"input.layout", "NCHW"},
          {"input.range", "0 255"},
          {"input.mean", fmt::format("{}", fmt::join(info.mean, " "))},
          {"input.deviation", fmt::format("{}", fmt::join(info.deviation, " "))},
          {"input.size", std::to_string(network.image_size())},
          {"input.template", nlohmann::json(face_template(network.image_size())).dump()},
          {"output.normalized", "false"}};
}

OnnxModel read_model(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream bytes;
  bytes << in.rdbuf();
  FT_CHECK(in && bytes, "{}: cannot be read back", file.string());
  return decode_onnx(bytes.view());
}

class OnnxExporter : public Exporter {
 public:
  explicit OnnxExporter(const OnnxExportOptions&) {}
  std::vector<std::string> extensions() const override { return {".onnx"}; }

  void write(Backbone& network, const ExportInfo& info,
             const std::filesystem::path& file) const override {
    OnnxModel model = convert_to_onnx(trace_network(network), kInput, kOutput);
    model.producer = "facetrain";
    model.producer_version = FACETRAIN_VERSION;
    model.metadata = metadata_of(network, info);
    const int64_t side = network.image_size();
    model.input.dims = {kDynamicBatch, 3, side, side};
    model.output.dims = {kDynamicBatch, network.dim()};
    check_onnx_graph(model);
    check_onnx_size(model);
    const ProtobufWriter encoded = encode_onnx(model);
    DurableFile out(file);
    uint64_t offset = 0;
    for (const std::string& piece : encoded.pieces()) {
      out.write(piece.data(), piece.size(), offset);
      offset += piece.size();
    }
    out.publish();
  }

  // The structure of what was read back, every weight's bits, and the outputs, which our own
  // reading of its operators computes.
  void verify(Backbone& network, const ExportInfo& info,
              const std::filesystem::path& file) const override {
    const OnnxModel model = read_model(file);
    check_onnx_graph(model);
    const int64_t side = network.image_size();
    FT_CHECK(model.ir_version >= 7 && model.opset >= 13 && model.input.name == kInput &&
                 model.input.dims == std::vector<int64_t>({kDynamicBatch, 3, side, side}) &&
                 model.output.name == kOutput &&
                 model.output.dims == std::vector<int64_t>({kDynamicBatch, network.dim()}) &&
                 model.metadata == metadata_of(network, info),
             "{}: reading it back gave other names, shapes or metadata than were written",
             file.string());
    check_weights(network, model, file);
    check_same_outputs(
        network, [&model](const torch::Tensor& images) { return run_onnx(model, images); },
        fmt::format("{}: it was written, and what was read back", file.string()));
  }

 private:
  static constexpr const char *kInput = "data", *kOutput = "embedding";

  static void check_weights(const Backbone& network, const OnnxModel& model,
                            const std::filesystem::path& file) {
    std::map<std::string, torch::Tensor> written;
    for (const auto& [name, tensor] : model.initializers) written[name] = tensor;
    int64_t found = 0;
    for (const auto& [name, tensor] : public_tensors(network)) {
      const auto entry = written.find(name);
      if (entry == written.end()) continue;  // counters, and what the embedding does not need
      ++found;
      FT_CHECK(entry->second.numel() == tensor.numel() &&
                   same_bits(entry->second.reshape(tensor.sizes()), tensor),
               "{}: reading '{}' back gave other values than were written", file.string(), name);
    }
    FT_CHECK(found > 0, "{}: there are no weights in it", file.string());
  }
};

const bool registered = Exporters::get().add<OnnxExporter, OnnxExportOptions>(
    "onnx",
    "for onnxruntime, TensorRT and the like: data [batch, 3, S, S] to embedding [batch, D]");

}  // namespace
}  // namespace facetrain
