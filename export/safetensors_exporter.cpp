// safetensors: weights by their public names. `__metadata__` has facetrain.config (YAML that builds
// the network and its input again, so that eval, embed and export need nothing else),
// facetrain.origin, and format = pt for Python's loaders.
#include "core/safetensors.h"
#include "export/exporter.h"

namespace facetrain {
namespace {

struct SafetensorsExportOptions {
  void fields(auto&) {}
};

Metadata metadata_of(const ExportInfo& info) {
  return {{"format", "pt"}, {"facetrain.config", info.config}, {"facetrain.origin", info.origin}};
}

class SafetensorsExporter : public Exporter {
 public:
  explicit SafetensorsExporter(const SafetensorsExportOptions&) {}
  std::vector<std::string> extensions() const override { return {".safetensors"}; }

  void write(Backbone& network, const ExportInfo& info,
             const std::filesystem::path& file) const override {
    save_safetensors(file, public_tensors(network), metadata_of(info));
  }

  // Every name, type, shape and bit, and the metadata.
  void verify(Backbone& network, const ExportInfo& info,
              const std::filesystem::path& file) const override {
    const SafetensorsFile written(file);
    const auto tensors = public_tensors(network);
    FT_CHECK(written.tensors().size() == tensors.size() && written.metadata() == metadata_of(info),
             "{}: reading back what was written gave {} tensors, wanted {}: is the disk damaged?",
             file.string(), written.tensors().size(), tensors.size());
    for (const auto& [name, tensor] : tensors)
      FT_CHECK(same_bits(written.read(name), tensor),
               "{}: reading '{}' back gave other values than were written: is the disk damaged?",
               file.string(), name);
  }
};

const bool registered = Exporters::get().add<SafetensorsExporter, SafetensorsExportOptions>(
    "safetensors", "weights by public names, with how to build the network and its input");

}  // namespace
}  // namespace facetrain
