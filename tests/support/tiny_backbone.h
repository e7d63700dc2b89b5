// Any registered network in small: what suites over all networks make of it.
#pragma once

#include <map>
#include <string>

#include "models/backbone.h"

namespace facetrain {

// Lines of YAML for `model:`, beside the name: an eighth of the width, an embedding of 24, few
// blocks, patches that fit into 32 and 56 pixels, and nothing that draws in training but what the
// test adds. Networks have different options; each gets those of these that it has.
inline std::string tiny_options(const std::string& name) {
  static const std::map<std::string, std::string> small{
      {"width", "0.125"},         {"embedding", "24"}, {"dropout", "0"}, {"depth", "2"},
      {"depths", "[1, 1, 2, 1]"}, {"drop_path", "0"},  {"mask", "0"}};
  std::string lines, patch;
  for (const auto& entry : Backbones::get().entries()) {
    if (entry.name != name) continue;
    for (const auto& field : entry.fields) {
      if (const auto found = small.find(field.name); found != small.end())
        lines += found->first + ": " + found->second + "\n";
      if (field.name == "patch" && std::stoi(field.fallback) > 8) patch = "patch: 8\n";
    }
  }
  return lines + patch;  // the patch last
}

}  // namespace facetrain
