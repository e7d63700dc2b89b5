// MobileFaceNet (Chen 2018, arXiv:1804.07573) as arcface_torch ships it (`mbf`, `mbf_large`):
// names, shapes, initialisation and eps are those of its files (reference/recognition.md 3.3).
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include "core/check.h"
#include "models/backbone.h"
#include "models/init_weights.h"
#include "models/layers.h"

namespace facetrain {
namespace {

using torch::Tensor;
using torch::nn::Sequential;

// A convolution with batch norm and, unless `linear`, PReLU, under `layers.{0,1,2}`.
class ConvBlock : public torch::nn::Module {
 public:
  explicit ConvBlock(const ConvOptions& options, bool linear = false)
      : layers(register_module("layers", Sequential(Conv2d(options), BatchNorm(options.out)))) {
    if (!linear) layers->push_back(PRelu(options.out));
  }
  Tensor forward(const Tensor& x) { return layers->forward(x); }

 private:
  Sequential layers;
};

// Expand to `groups` channels, 3x3 in each of them, project; with the input added when `residual`.
class DepthWise : public torch::nn::Module {
 public:
  DepthWise(int64_t in, int64_t out, int64_t groups, int64_t stride, bool residual)
      : layers(register_module(
            "layers", Sequential(ConvBlock(ConvOptions{in, groups, 1}),
                                 ConvBlock(ConvOptions{groups, groups, 3, stride, 1, groups}),
                                 ConvBlock(ConvOptions{groups, out, 1}, /*linear=*/true)))),
        residual_(residual) {}
  Tensor forward(const Tensor& x) {
    const auto y = layers->forward(x);
    return residual_ ? x + y : y;
  }

 private:
  Sequential layers;
  bool residual_;
};

class Residual : public torch::nn::Module {
 public:
  Residual(int64_t channels, int64_t blocks, int64_t groups)
      : layers(register_module("layers", Sequential())) {
    for (int64_t k = 0; k < blocks; ++k)
      layers->push_back(DepthWise(channels, channels, groups, 1, /*residual=*/true));
  }
  Tensor forward(const Tensor& x) { return layers->forward(x); }

 private:
  Sequential layers;
};

// Global depthwise convolution over the whole tail, then the embedding.
class GlobalDepthWise : public torch::nn::Module {
 public:
  GlobalDepthWise(int64_t channels, int64_t side, const CommonModelOptions& options)
      : layers(register_module(
            "layers",
            Sequential(ConvBlock(ConvOptions{channels, channels, side, 1, 0, channels}, true),
                       torch::nn::Flatten(), Linear(channels, options.embedding, /*bias=*/false),
                       BatchNorm(options.embedding)))),
        dropout(register_module("dropout", Dropout(options.dropout, "features.dropout"))) {}
  Tensor forward(const Tensor& x) {
    auto y = dropout(layers[0]->as<ConvBlock>()->forward(x).flatten(1));
    return layers[3]->as<BatchNorm>()->forward(layers[2]->as<Linear>()->forward(y));
  }

 private:
  Sequential layers;
  Dropout dropout;
};

class MobileFaceNet : public Backbone {
 public:
  MobileFaceNet(const CommonModelOptions& options, const BackboneContext& context,
                const std::array<int64_t, 4>& blocks, int64_t scale)
      : Backbone(options), image_size_(context.image_size > 0 ? context.image_size : 112) {
    const auto width = [&](int64_t channels) { return options.scaled(channels); };
    const int64_t narrow = width(64 * scale), wide = width(128 * scale);
    layers = register_module("layers", Sequential(ConvBlock(ConvOptions{3, narrow, 3, 2, 1})));
    if (blocks[0] == 1)
      layers->push_back(ConvBlock(ConvOptions{narrow, narrow, 3, 1, 1, width(64)}));
    else
      layers->push_back(Residual(narrow, blocks[0], width(128)));
    layers->push_back(DepthWise(narrow, narrow, width(128), 2, false));
    layers->push_back(Residual(narrow, blocks[1], width(128)));
    layers->push_back(DepthWise(narrow, wide, width(256), 2, false));
    layers->push_back(Residual(wide, blocks[2], width(256)));
    layers->push_back(DepthWise(wide, wide, width(512), 2, false));
    layers->push_back(Residual(wide, blocks[3], width(256)));
    conv_sep =
        register_module("conv_sep", std::make_shared<ConvBlock>(ConvOptions{wide, width(512), 1}));
    features = register_module(
        "features", std::make_shared<GlobalDepthWise>(width(512), tail_size(image_size_), options));
    init_kaiming_fan_out(*this, context.seed);
  }

  Features forward(const Tensor& images) override {
    check_images(images);
    const auto x = layers->forward(images);
    const NoAutocast full_precision(c10::autocast_dispatch_keyset);
    return {.embedding = features->forward(conv_sep->forward(to_full_precision(x))),
            .tokens = {},
            .pyramid = {}};
  }

  int64_t image_size() const override { return image_size_; }

 private:
  int64_t image_size_;
  Sequential layers{nullptr};
  std::shared_ptr<ConvBlock> conv_sep;
  std::shared_ptr<GlobalDepthWise> features;
};

class MobileFaceNetSmall : public MobileFaceNet {
 public:
  MobileFaceNetSmall(const CommonModelOptions& options, const BackboneContext& context)
      : MobileFaceNet(options, context, {1, 4, 6, 2}, 2) {}
};
class MobileFaceNetLarge : public MobileFaceNet {
 public:
  MobileFaceNetLarge(const CommonModelOptions& options, const BackboneContext& context)
      : MobileFaceNet(options, context, {2, 8, 12, 4}, 4) {}
};

[[maybe_unused]] const bool registered =
    Backbones::get().add<MobileFaceNetSmall, CommonModelOptions>(
        "mobilefacenet", "MobileFaceNet (arcface_torch mbf), 2.06 M parameters") &&
    Backbones::get().add<MobileFaceNetLarge, CommonModelOptions>(
        "mobilefacenet_large", "MobileFaceNet (arcface_torch mbf_large), 6.31 M parameters");

}  // namespace
}  // namespace facetrain
