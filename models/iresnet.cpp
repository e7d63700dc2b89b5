// IResNet (Duta 2020, arXiv:2004.04989) as arcface_torch ships it: names, shapes, initialisation
// and eps are those of its files (reference/recognition.md 3.1), so that weights can be exchanged.
#include <torch/nn/modules/container/sequential.h>

#include <cmath>

#include "core/check.h"
#include "core/freeze.h"
#include "models/backbone.h"
#include "models/init_weights.h"
#include "models/layers.h"

namespace facetrain {
namespace {

using torch::Tensor;

// BN -> 3x3 -> BN -> PReLU -> 3x3 (with the stride) -> BN, added to the input or its projection;
// nothing after the sum.
class Block : public torch::nn::Module {
 public:
  Block(int64_t in, int64_t out, int64_t stride)
      : bn1(register_module("bn1", BatchNorm(in))),
        conv1(register_module("conv1", Conv2d(ConvOptions{in, out, 3, 1, 1}))),
        bn2(register_module("bn2", BatchNorm(out))),
        prelu(register_module("prelu", PRelu(out))),
        conv2(register_module("conv2", Conv2d(ConvOptions{out, out, 3, stride, 1}))),
        bn3(register_module("bn3", BatchNorm(out))) {
    if (stride == 1 && in == out) return;
    downsample = register_module(
        "downsample",
        torch::nn::Sequential(Conv2d(ConvOptions{in, out, 1, stride}), BatchNorm(out)));
  }

  Tensor forward(const Tensor& x) {
    const auto residual = bn3(conv2(prelu(bn2(conv1(bn1(x))))));
    return residual + (downsample ? downsample->forward(x) : x);
  }

 private:
  BatchNorm bn1;
  Conv2d conv1;
  BatchNorm bn2;
  PRelu prelu;
  Conv2d conv2;
  BatchNorm bn3;
  torch::nn::Sequential downsample{nullptr};
};

class IResNet : public Backbone, public FreezePolicy {
 public:
  IResNet(const CommonModelOptions& options, const BackboneContext& context,
          const std::array<int64_t, 4>& blocks)
      : Backbone(options), image_size_(context.image_size > 0 ? context.image_size : 112) {
    const int64_t stem = options.scaled(64);
    conv1 = register_module("conv1", Conv2d(ConvOptions{3, stem, 3, 1, 1}));
    bn1 = register_module("bn1", BatchNorm(stem));
    prelu = register_module("prelu", PRelu(stem));
    int64_t channels = stem;
    for (size_t stage = 0; stage < 4; ++stage) {
      const int64_t out = stem << stage;
      auto layer = torch::nn::Sequential();
      for (int64_t k = 0; k < blocks[stage]; ++k) {
        layer->push_back(std::make_shared<Block>(channels, out, k == 0 ? 2 : 1));
        channels = out;
      }
      layers[stage] = register_module(fmt::format("layer{}", stage + 1), layer);
    }
    const int64_t side = tail_size(image_size_);
    bn2 = register_module("bn2", BatchNorm(channels));
    dropout = register_module("dropout", Dropout(options.dropout, "dropout"));
    fc = register_module("fc", Linear(channels * side * side, options.embedding));
    features = register_module("features", BatchNorm(options.embedding));
    features->weight.set_requires_grad(false);
    initialise(context.seed);
  }

  Features forward(const Tensor& images) override {
    check_images(images);
    auto x = prelu(bn1(conv1(images)));
    for (auto& layer : layers) x = layer->forward(x);
    x = dropout(bn2(x).flatten(1));  // C·H·W order in every memory format
    const NoAutocast full_precision(c10::autocast_dispatch_keyset);
    return {.embedding = features(fc(to_full_precision(x))), .tokens = {}, .pyramid = {}};
  }

  int64_t image_size() const override { return image_size_; }
  std::vector<std::string> frozen() const override {
    return {"features.weight"};  // fixed at 1, yet part of the files
  }

 private:
  // Convolutions N(0, 0.1); fc as PyTorch's Linear, U(-1/√in, 1/√in); norms 1 and 0, slopes 0.25 by
  // construction.
  void initialise(uint64_t seed) {
    for (const auto& item : named_parameters())
      if (item.value().dim() == 4) init_normal(item.value(), seed, item.key(), 0, 0.1);
    const double bound = 1 / std::sqrt(static_cast<double>(fc->weight.size(1)));
    init_uniform(fc->weight, seed, "fc.weight", -bound, bound);
    init_uniform(fc->bias, seed, "fc.bias", -bound, bound);
  }

  int64_t image_size_;
  Conv2d conv1{nullptr};
  BatchNorm bn1{nullptr};
  PRelu prelu{nullptr};
  std::array<torch::nn::Sequential, 4> layers{nullptr, nullptr, nullptr, nullptr};
  BatchNorm bn2{nullptr};
  Dropout dropout{nullptr};
  Linear fc{nullptr};
  BatchNorm features{nullptr};
};

template <int64_t... kBlocks>
class IResNetOf : public IResNet {
 public:
  IResNetOf(const CommonModelOptions& options, const BackboneContext& context)
      : IResNet(options, context, {kBlocks...}) {}
};

template <int64_t... kBlocks>
bool add(const char* name, const char* meaning) {
  return Backbones::get().add<IResNetOf<kBlocks...>, CommonModelOptions>(name, meaning);
}
[[maybe_unused]] const bool registered =
    add<2, 2, 2, 2>("iresnet18", "IResNet-18 (arcface_torch r18), 24.0 M parameters") &&
    add<3, 4, 6, 3>("iresnet34", "IResNet-34 (arcface_torch r34), 34.1 M parameters") &&
    add<3, 4, 14, 3>("iresnet50", "IResNet-50 (arcface_torch r50), 43.6 M parameters") &&
    add<3, 13, 30, 3>("iresnet100", "IResNet-100 (arcface_torch r100), 65.2 M parameters") &&
    add<6, 26, 60, 6>("iresnet200", "IResNet-200 (arcface_torch r200), 118.8 M parameters");

}  // namespace
}  // namespace facetrain
