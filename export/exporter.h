// Writers of trained networks for the world outside. One format a file, registered under the name
// that `--to` takes.
//
// Whatever a network was trained with, an exported file has its public names (no `backbone.`) and
// says how its input is to be made. A file with its final name has been read back and compared:
// write_export() sees to that, exporters only write.
#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "core/registry.h"
#include "models/backbone.h"

namespace facetrain {

// What a file says about the network beside its weights.
struct ExportInfo {
  std::string
      config;  // YAML from which the network is built again: model, data.size, data.normalize
  std::string origin;  // "run runs/a, step_000120000, averaged weights"
  // Of the input: (x - mean) / deviation a channel R, G, B, x in 0 ... 255.
  std::array<double, 3> mean{127.5, 127.5, 127.5}, deviation{127.5, 127.5, 127.5};
};

class Exporter {
 public:
  static constexpr const char* kKind = "exporter";
  virtual ~Exporter() = default;
  // What the name of a file of this format ends in, the usual ending first: {".safetensors"}.
  virtual std::vector<std::string> extensions() const = 0;
  // Writes the network, which is in eval mode on the CPU.
  virtual void write(Backbone& network, const ExportInfo& info,
                     const std::filesystem::path& file) const = 0;
  // Reads the file back and throws unless it is the same network: what is compared is the
  // exporter's to say.
  virtual void verify(Backbone& network, const ExportInfo& info,
                      const std::filesystem::path& file) const = 0;
};
using Exporters = Registry<Exporter>;

// Throws unless `file` ends as files of the format do, saying which format would fit.
void check_extension(const Config& section, const std::filesystem::path& file);

// Writes under a temporary name, verifies, renames to `file`; on any failure nothing is left.
// `section` has the format's name and options; an unknown name throws with the known ones.
void write_export(const Config& section, Backbone& network, const ExportInfo& info,
                  const std::filesystem::path& file);

// Equal in type, shape and every bit (so NaN equals itself).
bool same_bits(const torch::Tensor& a, const torch::Tensor& b);

// Parameters and buffers by their public names, in the order of the network; views, not copies.
std::vector<std::pair<std::string, torch::Tensor>> public_tensors(const Backbone& network);

}  // namespace facetrain
