// Writers of trained networks for the world outside. One format a file, registered under the name
// that `--to` takes.
//
// Whatever a network was trained with, an exported file has its public names (no `backbone.`) and
// says how its input is to be made. A file with its final name has been read back and compared:
// write_export() sees to that, exporters only write.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "core/registry.h"
#include "models/backbone.h"

namespace facetrain {

// What a file says about the network beside its weights.
struct ExportInfo {
  std::string
      config;  // YAML from which the network is built again: model, data.size, data.normalize
  std::string origin;  // "run runs/a, step_000120000, averaged weights"
};

class Exporter {
 public:
  static constexpr const char* kKind = "exporter";
  virtual ~Exporter() = default;
  // Writes the network, which is in eval mode on the CPU.
  virtual void write(Backbone& network, const ExportInfo& info,
                     const std::filesystem::path& file) const = 0;
  // Reads the file back and throws unless it is the same network: what is compared is the
  // exporter's to say.
  virtual void verify(Backbone& network, const ExportInfo& info,
                      const std::filesystem::path& file) const = 0;
};
using Exporters = Registry<Exporter>;

// Writes under a temporary name, verifies, renames to `file`; on any failure nothing is left.
// `section` has the format's name and options; an unknown name throws with the known ones.
void write_export(const Config& section, Backbone& network, const ExportInfo& info,
                  const std::filesystem::path& file);

// Parameters and buffers by their public names, in the order of the network; views, not copies.
std::vector<std::pair<std::string, torch::Tensor>> public_tensors(const Backbone& network);

}  // namespace facetrain
