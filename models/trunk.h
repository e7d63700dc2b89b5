// What the trunks under timm's names share (Swin, ResNet, ConvNeXt): their options, the size of
// their images, the embedding head behind their own feature, and how layers are counted.
//
// With `embedding: 0` (the default) a trunk has exactly timm's tensors for num_classes=0, and its
// embedding is timm's feature.
#pragma once

#include <string>
#include <vector>

#include "models/backbone.h"
#include "models/checkpointed.h"
#include "models/embedding_head.h"

namespace facetrain {

struct TrunkOptions : CommonModelOptions {
  TrunkOptions() {
    embedding = 0;
    own_feature = true;
  }
  int64_t image_size = 0;
  bool any_size = false;
  double drop_path = 0;
  std::vector<int64_t> depths;
  void fields(auto& f) {
    CommonModelOptions::fields(f);
    f("image_size", image_size, range(0, 4096),
      "pixels of the square images it is built for; 0: data.size, or 224");
    f("any_size", any_size,
      "also take images of other sizes than that (crops of several sizes in one step)");
    f("drop_path", drop_path, range(0, 0.99),
      "probability of dropping the last block's branches for a sample; it rises from 0 block by "
      "block");
    f("depths", depths, "blocks of each stage, [2, 2, 6, 2]; empty: the network's own");
  }
  // Of trunks whose blocks keep no statistics, so that they can run twice.
  bool checkpoint_activations = false;
  void block_fields(auto& f) {
    f("checkpoint_activations", checkpoint_activations,
      "compute each block again in the backward: less memory, a third more time");
  }
};

class Trunk : public Backbone {
 public:
  int64_t image_size() const override { return image_size_; }
  int64_t dim() const override { return feature->dim(); }
  // Layer 0 is the stem, each block is one in order (a stage's downsampling belongs to its first
  // block), and the last layer holds what follows the blocks.
  int64_t layers() const override;
  int64_t layer_of(const std::string& parameter) const override;
  // The blocks' outputs [B, C, H, W], under the blocks' names.
  std::vector<std::string> taps() const override;

 protected:
  // How the public files call block 1 of the first stage: "layers." 0 ".blocks." 1.
  struct Naming {
    std::string stages, blocks;
    int64_t first = 0;  // number of the first stage
  };
  Trunk(const TrunkOptions& options, const BackboneContext& context,
        const std::vector<int64_t>& depths, Naming naming);
  // To be called once, by the constructor: registers `feature` for a feature of this many channels.
  void add_head(int64_t channels);
  // Throws unless the images are of the size that was built for, or, with any_size, are square or
  // oblong images of `least` pixels a side that are multiples of `multiple`.
  void check_input(const torch::Tensor& images, int64_t least, int64_t multiple) const;

  const std::vector<int64_t>& depths() const { return depths_; }
  int64_t blocks() const;                                      // of all stages
  std::string block_name(int64_t stage, int64_t block) const;  // stages from 0
  // Of a branch of block `index`, counted through all stages.
  double drop_path_of(int64_t index) const;
  // block->forward(x), whose activations are not kept with checkpoint_activations.
  template <class Block>
  torch::Tensor run_block(const std::shared_ptr<Block>& block, const torch::Tensor& x) const {
    if (!options_.checkpoint_activations || !is_training()) return block->forward(x);
    return checkpointed([block](const torch::Tensor& y) { return block->forward(y); }, x);
  }
  // Keeps a block's output if it was asked for.
  void tap(Features& features, int64_t stage, int64_t block, const torch::Tensor& map) const;

  EmbeddingHead feature{nullptr};

 private:
  TrunkOptions options_;
  int64_t image_size_;
  std::vector<int64_t> depths_;
  Naming naming_;
};

// Weights and biases as PyTorch's Linear and Conv2d start: U(-1/√fan_in, 1/√fan_in). `bias` may be
// undefined.
void init_as_pytorch(torch::Tensor weight, torch::Tensor bias, uint64_t seed,
                     const std::string& name);

}  // namespace facetrain
