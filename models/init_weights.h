// Values for a network's parameters: drawn from (seed, name), or read from a file with public
// names.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/torch.h"

namespace facetrain {

// Draws one parameter in place from (seed, name): the same on every rank and device and in every
// memory format, whatever else is initialised. Values are those of fp32.
void init_normal(torch::Tensor parameter, uint64_t seed, const std::string& name, double mean,
                 double deviation);
void init_uniform(torch::Tensor parameter, uint64_t seed, const std::string& name, double low,
                  double high);

// What load_weights() found.
struct LoadReport {
  std::string file;
  int64_t loaded = 0;
  std::vector<std::string> missing;     // in the network, not in the file
  std::vector<std::string> unexpected;  // in the file, not in the network
  std::vector<std::string> mismatched;  // "name: network [2, 3], file [2, 4]"
};

// Copies the tensors of a safetensors file into the parameters and buffers of the same names, cast
// to their types. When the file is a checkpoint (names that begin with `backbone.`), that prefix is
// removed and all other names are left alone. A missing `num_batches_tracked` is no fault. Nothing
// is changed unless everything can be loaded: with `strict` any fault throws, without it only a
// file that shares no tensor with the network does.
LoadReport load_weights(torch::nn::Module& network, const std::filesystem::path& file, bool strict);

// Prints a report: one line, and the names that were left out.
void report(const LoadReport& report);

}  // namespace facetrain
