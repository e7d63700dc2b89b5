// ResNet (He 2016, arXiv:1512.03385, with the stride in the 3x3 convolution) under the names and
// shapes of torchvision and timm: conv1, bn1, layer1 ... layer4, downsample.0 and .1
// (reference/ssl_peft_unlearning.md 8.1; initialised as timm does). Without pooling it is the
// trunk of FRA (2.4 there): Features::pyramid holds the four stages' maps.
#include <array>

#include "core/check.h"
#include "models/init_weights.h"
#include "models/layers.h"
#include "models/trunk.h"

namespace facetrain {
namespace {

using torch::Tensor;

struct ResNetOptions : TrunkOptions {
  bool zero_init_last = true;
  void fields(auto& f) {
    TrunkOptions::fields(f);
    f("zero_init_last", zero_init_last,
      "start the last batch norm of every block at 0, so that the block is its shortcut");
  }
};

struct Layout {
  std::vector<int64_t> depths;
  bool bottleneck;
  int64_t expansion() const { return bottleneck ? 4 : 1; }
};

// A projection of the shortcut: `0` the convolution, `1` its norm.
class Downsample : public torch::nn::Module {
 public:
  Downsample(int64_t in, int64_t out, int64_t stride)
      : conv(register_module("0", Conv2d(ConvOptions{in, out, 1, stride}))),
        norm(register_module("1", BatchNorm(out))) {}
  Tensor forward(const Tensor& x) { return norm(conv(x)); }

 private:
  Conv2d conv;
  BatchNorm norm;
};

// 3x3 (with the stride), 3x3; or 1x1, 3x3 (with the stride), 1x1. A norm follows each convolution,
// ReLU each norm but the last, and the sum.
class Block : public torch::nn::Module {
 public:
  Block(int64_t in, int64_t planes, int64_t stride, const Layout& layout, double drop_path,
        const std::string& name) {
    const int64_t out = planes * layout.expansion();
    if (layout.bottleneck) {
      add({in, planes, 1});
      add({planes, planes, 3, stride, 1});
      add({planes, out, 1});
    } else {
      add({in, planes, 3, stride, 1});
      add({planes, planes, 3, 1, 1});
    }
    drop_path_ = register_module("drop_path", DropPath(drop_path, name + ".drop_path"));
    if (stride == 1 && in == out) return;
    downsample_ = register_module("downsample", std::make_shared<Downsample>(in, out, stride));
  }

  Tensor forward(const Tensor& x) {
    Tensor y = x;
    for (size_t k = 0; k < convolutions_.size(); ++k) {
      y = norms_[k](convolutions_[k](y));
      if (k + 1 < convolutions_.size()) y = at::relu(y);
    }
    return at::relu(drop_path_(y) + (downsample_ ? downsample_->forward(x) : x));
  }

  void zero_last_norm() {
    const torch::NoGradGuard no_grad;
    norms_.back()->weight.zero_();
  }

 private:
  void add(const ConvOptions& options) {
    const size_t number = convolutions_.size() + 1;
    convolutions_.push_back(register_module(fmt::format("conv{}", number), Conv2d(options)));
    norms_.push_back(register_module(fmt::format("bn{}", number), BatchNorm(options.out)));
  }

  std::vector<Conv2d> convolutions_;
  std::vector<BatchNorm> norms_;
  DropPath drop_path_{nullptr};
  std::shared_ptr<Downsample> downsample_;
};

constexpr int64_t kLeastSide = 32;  // halved five times

class ResNet : public Trunk {
 public:
  ResNet(const ResNetOptions& options, const BackboneContext& context, const Layout& layout)
      : Trunk(options, context, layout.depths, {"layer", ".", 1}) {
    FT_CHECK(depths().size() == 4, "model.depths of a ResNet are four numbers, found [{}]",
             fmt::join(depths(), ", "));
    FT_CHECK(image_size() >= kLeastSide,
             "this network halves its input five times and wants images of {} pixels or more, "
             "found {}",
             kLeastSide, image_size());
    const int64_t stem = options.scaled(64);
    conv1 = register_module("conv1", Conv2d(ConvOptions{3, stem, 7, 2, 3}));
    bn1 = register_module("bn1", BatchNorm(stem));
    int64_t channels = stem, index = 0;
    for (int64_t stage = 0; stage < 4; ++stage) {
      const auto module =
          register_module(fmt::format("layer{}", stage + 1), std::make_shared<torch::nn::Module>());
      const int64_t planes = stem << stage;
      for (int64_t k = 0; k < depths()[static_cast<size_t>(stage)]; ++k, ++index) {
        const auto block =
            std::make_shared<Block>(channels, planes, k == 0 && stage > 0 ? 2 : 1, layout,
                                    drop_path_of(index), block_name(stage, k));
        stages[static_cast<size_t>(stage)].push_back(
            module->register_module(std::to_string(k), block));
        channels = planes * layout.expansion();
      }
    }
    add_head(channels);
    init_kaiming_fan_out(*this, context.seed);
    feature->initialise(context.seed);
    if (options.zero_init_last)
      for (auto& stage : stages)
        for (auto& block : stage) block->zero_last_norm();
  }

  // Tokens are the last map's pixels; the embedding is their mean (or the head's of it).
  Features forward(const Tensor& images) override {
    check_input(images, kLeastSide, 1);
    Features features;
    auto x = at::max_pool2d(at::relu(bn1(conv1(images))), {3, 3}, {2, 2}, {1, 1});
    for (int64_t stage = 0; stage < 4; ++stage) {
      auto& blocks = stages[static_cast<size_t>(stage)];
      for (size_t k = 0; k < blocks.size(); ++k) {
        x = blocks[k]->forward(x);
        tap(features, stage, static_cast<int64_t>(k), x);
      }
      features.pyramid.push_back(x);
    }
    features.tokens = x.flatten(2).transpose(1, 2);
    features.embedding = feature(to_full_precision(x).mean({2, 3}));
    return features;
  }

  // By stage: 0 the stem, 1 ... 4 the stages, 5 the head.
  int64_t layers() const override { return 6; }
  int64_t layer_of(const std::string& parameter) const override {
    if (parameter.starts_with("layer")) return parameter.at(5) - '0';
    return parameter.starts_with("feature.") ? 5 : 0;
  }

 private:
  Conv2d conv1{nullptr};
  BatchNorm bn1{nullptr};
  std::array<std::vector<std::shared_ptr<Block>>, 4> stages;
};

template <bool bottleneck, int64_t... kDepths>
class ResNetOf : public ResNet {
 public:
  ResNetOf(const ResNetOptions& options, const BackboneContext& context)
      : ResNet(options, context, {{kDepths...}, bottleneck}) {}
};

[[maybe_unused]] const bool registered =
    Backbones::get().add<ResNetOf<false, 2, 2, 2, 2>, ResNetOptions>(
        "resnet18", "ResNet-18 (torchvision, timm), 11.2 M parameters, feature of 512") &&
    Backbones::get().add<ResNetOf<true, 3, 4, 6, 3>, ResNetOptions>(
        "resnet50", "ResNet-50 (torchvision, timm), 23.5 M parameters, feature of 2048");

}  // namespace
}  // namespace facetrain
