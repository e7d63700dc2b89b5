// A torch module from images to features. One family a file, registered under the name that
// `model.name` takes.
//
// A network's constructor initialises all its parameters from (seed, name), so two networks of one
// configuration are equal; create_backbone() then loads `model.init` over them.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/registry.h"
#include "core/torch.h"
#include "models/init_weights.h"

namespace facetrain {

// What a trunk offers; a recipe takes what its heads need.
struct Features {
  torch::Tensor embedding;                         // [B, D]
  torch::Tensor tokens;                            // [B, T, C] or undefined
  std::vector<torch::Tensor> pyramid;              // [B, C_i, H_i, W_i], finest first; may be empty
  std::map<std::string, torch::Tensor> taps = {};  // what Backbone::ask_for() named
};

// The options that every network has; a network with more derives from it and calls fields() first.
struct CommonModelOptions {
  double width = 1;
  int64_t embedding = 512;
  bool own_feature = false;  // whether `embedding: 0` is allowed: the trunk's own feature, no head
  double dropout = 0;
  std::string batch_norm = "local";
  std::string init, color_order = "rgb";
  bool strict = true;
  void fields(auto& f) {
    f("width", width, range(1.0 / 64, 16), "factor on all channel counts (0.25 of 64 is 16)");
    f("embedding", embedding, at_least(own_feature ? 0 : 1),
      own_feature ? "size of the embedding; 0: the trunk's own feature" : "size of the embedding");
    f("dropout", dropout, range(0, 0.99), "probability of dropping an input of the last layer");
    f("batch_norm", batch_norm, one_of("local", "sync"), "statistics of a rank's rows, or of all");
    f("init", init, "weights to start from (.safetensors, .pth); empty: random");
    f("color_order", color_order, one_of("rgb", "bgr"),
      "that init was trained on; bgr: its first layer is turned to RGB on loading");
    f("strict", strict, "init must hold every tensor of the network and no other");
  }
  // `channels` times the width, which must come out whole.
  int64_t scaled(int64_t channels) const;
  ColorOrder colors() const { return color_order == "bgr" ? ColorOrder::kBgr : ColorOrder::kRgb; }
};

// What every network is told beside its own options.
struct BackboneContext {
  uint64_t seed = 0;         // of the initialisation: parameter p is drawn from (seed, name of p)
  int64_t image_size = 112;  // data.size, or the network's own default when 0
};

class Backbone : public torch::nn::Module {
 public:
  static constexpr const char* kKind = "backbone";
  // What a network of arcface_torch's get_model() ("r50", "mbf") is called here; "" for another.
  static std::string our_name(const std::string& theirs);
  explicit Backbone(const CommonModelOptions& common) : common_(common) {}
  // Images [B, 3, H, W], normalised, channels_last preferred.
  virtual Features forward(const torch::Tensor& images) = 0;
  virtual int64_t dim() const { return common_.embedding; }  // D of the embedding
  virtual int64_t image_size() const = 0;  // pixels of the square input this network is built for
  const CommonModelOptions& common() const { return common_; }

  // Names of the intermediate outputs on offer ("blocks.3").
  virtual std::vector<std::string> taps() const { return {}; }
  // Every later forward returns these in Features::taps. Throws for a name that is not on offer.
  void ask_for(const std::vector<std::string>& taps);

  // For learning rates that fall from layer to layer: the layer, 0 (nearest to the image) to
  // layers() - 1, to which a parameter below this network belongs.
  virtual int64_t layer_of(const std::string& /*parameter*/) const { return 0; }
  virtual int64_t layers() const { return 1; }

 protected:
  bool asked_for(const std::string& tap) const { return asked_.contains(tap); }
  // Throws unless images are [B, 3, S, S] of the size that the network was built for.
  void check_images(const torch::Tensor& images) const;

 private:
  CommonModelOptions common_;
  std::set<std::string> asked_;
};
using Backbones = Registry<Backbone, const BackboneContext&>;

// The network that `section` (model:) names, with `model.init` loaded and reported. Not a
// collective: every rank reads.
std::shared_ptr<Backbone> create_backbone(const Config& section, const BackboneContext& context);

// Pixels a side after four halvings (a 3x3 convolution of stride 2 and padding 1 rounds up); throws
// below 16 pixels.
int64_t tail_size(int64_t image_size);

}  // namespace facetrain
