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

// Normal of mean 0, cut at -2 and 2 (timm's and PyTorch's trunc_normal_: absolute bounds).
void init_trunc_normal(torch::Tensor parameter, uint64_t seed, const std::string& name,
                       double deviation);
// Xavier's uniform, ±√(6 / (fan in + fan out)), of the matrix [size(0), rest].
void init_xavier_uniform(torch::Tensor parameter, uint64_t seed, const std::string& name);

// Kaiming's normal over the fan-out for every parameter of two or more dimensions. The fan-out
// counts all output channels, also of grouped convolutions.
void init_kaiming_fan_out(const torch::nn::Module& network, uint64_t seed);

// What load_weights() found. Names are the file's, except in `missing` and `mismatched`.
struct LoadReport {
  std::string file;
  std::string prefix;   // what stands before the network's names in the file: "state_dict.model."
  bool turned = false;  // the first convolution, from BGR to RGB
  int64_t loaded = 0;
  std::vector<std::string> missing;     // in the network, not in the file
  std::vector<std::string> unexpected;  // below the prefix in the file, not in the network
  std::vector<std::string> mismatched;  // "name: network [2, 3], file [2, 4]"
  std::vector<std::string> ignored;     // outside the prefix, and heads and classifiers below it
};

// A network whose parameters may come from a stored tensor of another shape, such as a position
// table of another grid, or under other public names. load_weights() looks for it.
class WeightFitter {
 public:
  virtual ~WeightFitter() = default;
  // Whether fit() can make the parameter of what is stored.
  virtual bool fits(const std::string& name, torch::IntArrayRef stored) const = 0;
  // The parameter's values, of its shape. Throws where the values cannot be used.
  virtual torch::Tensor fit(const std::string& name, const torch::Tensor& stored) const = 0;
};

// The order of colours of the images that weights were trained on.
enum class ColorOrder { kRgb, kBgr };

// Copies the tensors of a file (core/weights_file.h) into the parameters and buffers of the same
// names, cast to their types. The names may stand below a prefix, whatever its words are: our
// checkpoints' `backbone.`, DataParallel's `module.`, Lightning's `state_dict.model.`; the prefix
// below which most of the network's names are found is taken (of several the shortest, then the
// first), everything outside it is ignored. Missing `num_batches_tracked` and left-over tensors of
// heads (`head.`, `classifier.`, `fc.` where the network has no such layer) are no fault. Weights
// for BGR have the input channels of the network's first convolution reversed, so that the network
// takes RGB as all others do. Nothing is changed unless everything can be loaded: with `strict` any
// fault throws, without it only a file that shares no tensor with the network does.
LoadReport load_weights(torch::nn::Module& network, const std::filesystem::path& file, bool strict,
                        ColorOrder order = ColorOrder::kRgb);

// Prints a report: one line, and the names that were left out.
void report(const LoadReport& report);

}  // namespace facetrain
