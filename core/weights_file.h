// Named tensors of a file that somebody else may have written: one face for safetensors and for
// PyTorch's pickles. The format is told by the file's first bytes, not by its name.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace facetrain {

struct WeightInfo {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
};

class WeightsFile {
 public:
  virtual ~WeightsFile() = default;
  // Nested tables are joined by dots: {"state_dict": {"fc.bias": t}} has `state_dict.fc.bias`.
  const std::map<std::string, WeightInfo>& tensors() const { return tensors_; }
  // A contiguous copy on the CPU. Throws when the file has no tensor of that name, and when it is
  // damaged.
  virtual at::Tensor read(const std::string& name) const = 0;

 protected:
  std::map<std::string, WeightInfo> tensors_;
};

enum class WeightsFormat { kSafetensors, kPth, kTorchScript, kUnknown };
// What the file's first bytes (and a zip's entries) say. Throws when it cannot be read.
WeightsFormat weights_format(const std::filesystem::path& file);

// Opens a safetensors, .pth or .pt file. Throws for everything else, saying what it is when that is
// known; a file named .safetensors is taken at its word.
std::unique_ptr<WeightsFile> open_weights_file(const std::filesystem::path& file);

}  // namespace facetrain
