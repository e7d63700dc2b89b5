// ConvNeXt (Liu 2022, arXiv:2201.03545) under the names and shapes of timm; initialised as timm
// does.
#include "core/check.h"
#include "models/init_weights.h"
#include "models/layers.h"
#include "models/transformer_layers.h"
#include "models/translated_weights.h"
#include "models/trunk.h"

namespace facetrain {
namespace {

using torch::Tensor;

constexpr double kEps = 1e-6;

struct ConvNextOptions : TrunkOptions {
  double layer_scale = 1e-6;
  void fields(auto& f) {
    TrunkOptions::fields(f);
    block_fields(f);
    f("layer_scale", layer_scale, range(0, 1), "start of every channel's gamma");
  }
};

// Layer normalisation over the channels of [B, C, H, W].
Tensor over_channels(LayerNorm& norm, const Tensor& x) {
  return norm(x.permute({0, 2, 3, 1})).permute({0, 3, 1, 2});
}

// 7x7 for each channel, then norm, Linear to four times the channels, GELU and Linear at each
// pixel, times gamma.
class Block : public torch::nn::Module {
 public:
  Block(int64_t dim, double layer_scale, double drop_path, const std::string& name)
      : conv_dw(register_module("conv_dw", Conv2d(ConvOptions{dim, dim, 7, 1, 3, dim, true}))),
        norm(register_module("norm", LayerNorm(dim, kEps))),
        mlp(register_module("mlp", Mlp(dim, 4 * dim))),
        drop_path_(register_module("drop_path", DropPath(drop_path, name + ".drop_path"))),
        gamma(register_parameter("gamma", torch::full({dim}, layer_scale))) {}

  Tensor forward(const Tensor& x) {
    const auto y = mlp(norm(conv_dw(x).permute({0, 2, 3, 1}))) * gamma;
    return x + drop_path_(y.permute({0, 3, 1, 2}));
  }

 private:
  Conv2d conv_dw;
  LayerNorm norm;
  Mlp mlp;
  DropPath drop_path_;
  Tensor gamma;
};

// The stem (convolution, norm) and the steps between stages (norm, convolution): a square of
// pixels becomes one.
class Reduction : public torch::nn::Module {
 public:
  Reduction(int64_t in, int64_t out, int64_t side, bool norm_first) : norm_first_(norm_first) {
    const ConvOptions options{in, out, side, side, 0, 1, true};
    conv = register_module(norm_first ? "1" : "0", Conv2d(options));
    norm = register_module(norm_first ? "0" : "1", LayerNorm(norm_first ? in : out, kEps));
  }
  Tensor forward(const Tensor& x) {
    return norm_first_ ? conv(over_channels(norm, x)) : over_channels(norm, conv(x));
  }

 private:
  bool norm_first_;
  Conv2d conv{nullptr};
  LayerNorm norm{nullptr};
};

struct Stage {
  std::shared_ptr<Reduction> downsample;  // none in the first stage
  std::vector<std::shared_ptr<Block>> blocks;
};

constexpr int64_t kLeastSide = 32;  // four times four, then halved three times

class ConvNext : public Trunk, public WeightTranslator {
 public:
  ConvNext(const ConvNextOptions& options, const BackboneContext& context, int64_t dim,
           const std::vector<int64_t>& depths_of_it)
      : Trunk(options, context, depths_of_it, {"stages.", ".blocks."}) {
    FT_CHECK(depths().size() == 4, "model.depths of a ConvNeXt are four numbers, found [{}]",
             fmt::join(depths(), ", "));
    FT_CHECK(image_size() >= kLeastSide, "this network wants images of {} pixels or more, found {}",
             kLeastSide, image_size());
    const int64_t first = options.scaled(dim);
    stem = register_module("stem", std::make_shared<Reduction>(3, first, 4, false));
    const auto all = register_module("stages", std::make_shared<torch::nn::Module>());
    int64_t made = 0;
    for (int64_t stage = 0; stage < 4; ++stage)
      made = add_stage(*all, stage, first << stage, options.layer_scale, made);
    head = register_module("head", std::make_shared<torch::nn::Module>());
    norm = head->register_module("norm", LayerNorm(first << 3, kEps));
    add_head(first << 3);
    for (const auto& item : named_parameters())
      if (item.value().dim() >= 2) init_trunc_normal(item.value(), context.seed, item.key(), 0.02);
    feature->initialise(context.seed);
  }

  // Tokens are the last map's pixels; the embedding is the norm of their mean.
  Features forward(const Tensor& images) override {
    check_input(images, kLeastSide, 1);
    Features features;
    auto x = stem->forward(images);
    for (size_t stage = 0; stage < stages.size(); ++stage) {
      if (stage > 0) x = stages[stage].downsample->forward(x);
      auto& blocks = stages[stage].blocks;
      for (size_t k = 0; k < blocks.size(); ++k) {
        x = run_block(blocks[k], x);
        tap(features, static_cast<int64_t>(stage), static_cast<int64_t>(k), x);
      }
      features.pyramid.push_back(x);
    }
    features.tokens = x.flatten(2).transpose(1, 2);
    const NoAutocast full_precision(c10::autocast_dispatch_keyset);
    features.embedding = feature(norm(to_full_precision(x).mean({2, 3})));
    return features;
  }

  std::unique_ptr<WeightsFile> translated(std::unique_ptr<WeightsFile> file) const override {
    return translate_convnext(std::move(file));
  }

 private:
  // Returns the number of blocks made so far.
  int64_t add_stage(torch::nn::Module& all, int64_t stage, int64_t dim, double layer_scale,
                    int64_t made) {
    const auto module =
        all.register_module(std::to_string(stage), std::make_shared<torch::nn::Module>());
    auto& parts = stages.emplace_back();
    if (stage > 0)
      parts.downsample = module->register_module(
          "downsample", std::make_shared<Reduction>(dim / 2, dim, 2, /*norm_first=*/true));
    const auto blocks = module->register_module("blocks", std::make_shared<torch::nn::Module>());
    for (int64_t k = 0; k < depths()[static_cast<size_t>(stage)]; ++k, ++made)
      parts.blocks.push_back(blocks->register_module(
          std::to_string(k),
          std::make_shared<Block>(dim, layer_scale, drop_path_of(made), block_name(stage, k))));
    return made;
  }

  std::shared_ptr<Reduction> stem;
  std::vector<Stage> stages;
  std::shared_ptr<torch::nn::Module> head;
  LayerNorm norm{nullptr};
};

template <int64_t kDim, int64_t kThird>
class ConvNextOf : public ConvNext {
 public:
  ConvNextOf(const ConvNextOptions& options, const BackboneContext& context)
      : ConvNext(options, context, kDim, {3, 3, kThird, 3}) {}
};

[[maybe_unused]] const bool registered =
    Backbones::get().add<ConvNextOf<96, 9>, ConvNextOptions>(
        "convnext_tiny", "ConvNeXt-T (timm), 27.8 M parameters, feature of 768") &&
    Backbones::get().add<ConvNextOf<128, 27>, ConvNextOptions>(
        "convnext_base", "ConvNeXt-B (timm), 87.6 M parameters, feature of 1024");

}  // namespace
}  // namespace facetrain
