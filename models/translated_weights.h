// Files of the same weights under other names, as a network's authors and other libraries save
// them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "core/weights_file.h"

namespace facetrain {

// A file under the names that a network has, of which each tensor may be rearranged on reading.
class TranslatedWeights : public WeightsFile {
 public:
  struct Source {
    std::string stored;                                       // the file's name of it
    std::function<at::Tensor(const at::Tensor&)> rearranged;  // of the same shape; may be empty
  };
  // `sources`: our name -> what it is in `file`. Tensors that are not named are left out.
  TranslatedWeights(std::unique_ptr<WeightsFile> file, std::map<std::string, Source> sources);
  at::Tensor read(const std::string& name) const override;

 private:
  std::unique_ptr<WeightsFile> file_;
  std::map<std::string, Source> sources_;
};

// A network that also reads files of another layout. load_weights() looks for it.
class WeightTranslator {
 public:
  virtual ~WeightTranslator() = default;
  // The file itself if it has the network's own layout, or none that is known.
  virtual std::unique_ptr<WeightsFile> translated(std::unique_ptr<WeightsFile> file) const = 0;
};

// Swin's: timm's current layout is ours. Microsoft's and older timm's have a stage's downsampling
// at its end and save indices and masks; OpenMMLab's (SOLIDER's files) has further names for the
// parts of a block, a norm for each stage, of which the last is ours, and merges the four
// neighbours of a pixel in another order. `stages`: of the network.
std::unique_ptr<WeightsFile> translate_swin(std::unique_ptr<WeightsFile> file, int64_t stages);
// ConvNeXt's: timm's layout is ours; its authors' has `downsample_layers`, `dwconv`, `pwconv`.
std::unique_ptr<WeightsFile> translate_convnext(std::unique_ptr<WeightsFile> file);

}  // namespace facetrain
