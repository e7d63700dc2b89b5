// TorchScript files as networks: those that `facetrain export --to torchscript` wrote and those of
// other programs.
//
// A TorchScript file is a program: whoever runs one runs the operations that its author put there
// (they may read and write files). Only files from people one trusts belong here.
#pragma once

#include <c10/core/Device.h>

#include <filesystem>
#include <memory>
#include <string>

#include "models/backbone.h"

namespace facetrain {

// Extra files of the archive: ExportInfo::config, ExportInfo::origin, and the pixels a side.
constexpr const char* kScriptConfig = "facetrain.config";
constexpr const char* kScriptOrigin = "facetrain.origin";
constexpr const char* kScriptSize = "facetrain.size";

struct ScriptFile {
  std::string config, origin;  // empty in a file that is not ours
  int64_t image_size = 0;      // the same: 0
};
// What our exporter wrote beside the network.
ScriptFile read_script_info(const std::filesystem::path& file);

// The file's own graph as a backbone for images of the given size, on the device, in eval mode. It
// has no parameters of its own, so it cannot be trained or exported again. Throws unless it takes
// [1, 3, S, S] and gives [1, D].
std::shared_ptr<Backbone> load_script(const std::filesystem::path& file, int64_t image_size,
                                      c10::Device device);

}  // namespace facetrain
