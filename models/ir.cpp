// IR and IR-SE (Deng 2019, arXiv:1801.07698, as TFace, AdaFace and CVLface ship them): names,
// shapes, initialisation and eps are those of their files (reference/recognition.md 3.2), so that
// weights can be exchanged. The embedding is the feature before AdaFace divides it by its norm.
//
// Against IResNet: a shortcut that keeps its channels takes every second pixel instead of being
// convolved, and the last norm has neither slope nor shift; so the two do not share weights.
#include <torch/nn/modules/container/sequential.h>

#include "core/check.h"
#include "models/backbone.h"
#include "models/init_weights.h"
#include "models/layers.h"

namespace facetrain {
namespace {

using torch::Tensor;
using torch::nn::Sequential;

struct IrOptions : CommonModelOptions {
  IrOptions() { dropout = 0.4; }  // theirs, before the last layer
};

struct Layout {
  std::array<int64_t, 4> blocks;
  bool bottleneck, squeeze;
};

// Squeeze and excitation (Hu 2018, arXiv:1709.01507): x times a gate of each channel, made of all
// channels' averages. 16 channels share one of the hidden layer, which has one at least.
class SqueezeExcite : public torch::nn::Module {
 public:
  explicit SqueezeExcite(int64_t channels)
      : fc1(register_module("fc1", Conv2d(ConvOptions{channels, hidden(channels), 1}))),
        fc2(register_module("fc2", Conv2d(ConvOptions{hidden(channels), channels, 1}))) {}
  Tensor forward(const Tensor& x) {
    const auto average = at::adaptive_avg_pool2d(x, {1, 1});
    return x * at::sigmoid(fc2(at::relu(fc1(average))));
  }

 private:
  static int64_t hidden(int64_t channels) { return std::max<int64_t>(channels / 16, 1); }
  Conv2d fc1, fc2;
};

// BN -> 3x3 -> BN -> PReLU -> 3x3 (with the stride) -> BN [-> SE]; a bottleneck has 1x1, 3x3 and
// 1x1 convolutions, the last with the stride, and a quarter of the channels inside.
Sequential residual(int64_t in, int64_t out, int64_t stride, const Layout& layout) {
  const int64_t inner = layout.bottleneck ? out / 4 : out;
  const int64_t outer_kernel = layout.bottleneck ? 1 : 3, outer_padding = layout.bottleneck ? 0 : 1;
  Sequential path(BatchNorm(in), Conv2d(ConvOptions{in, inner, outer_kernel, 1, outer_padding}),
                  BatchNorm(inner), PRelu(inner));
  if (layout.bottleneck) {
    path->push_back(Conv2d(ConvOptions{inner, inner, 3, 1, 1}));
    path->push_back(BatchNorm(inner));
    path->push_back(PRelu(inner));
  }
  path->push_back(Conv2d(ConvOptions{inner, out, outer_kernel, stride, outer_padding}));
  path->push_back(BatchNorm(out));
  if (layout.squeeze) path->push_back("se_block", std::make_shared<SqueezeExcite>(out));
  return path;
}

class Block : public torch::nn::Module {
 public:
  Block(int64_t in, int64_t out, int64_t stride, const Layout& layout)
      : res_layer(register_module("res_layer", residual(in, out, stride, layout))),
        stride_(stride) {
    if (in != out)
      shortcut_layer = register_module(
          "shortcut_layer", Sequential(Conv2d(ConvOptions{in, out, 1, stride}), BatchNorm(out)));
  }
  Tensor forward(const Tensor& x) { return res_layer->forward(x) + shortcut(x); }

 private:
  Tensor shortcut(const Tensor& x) {
    if (shortcut_layer) return shortcut_layer->forward(x);
    return stride_ > 1 ? take_every(x, stride_) : x;
  }
  Sequential res_layer, shortcut_layer{nullptr};
  int64_t stride_;
};

class Ir : public Backbone {
 public:
  Ir(const IrOptions& options, const BackboneContext& context, const Layout& layout)
      : Backbone(options), image_size_(context.image_size > 0 ? context.image_size : 112) {
    const int64_t stem = options.scaled(64);
    input_layer = register_module("input_layer", Sequential(Conv2d(ConvOptions{3, stem, 3, 1, 1}),
                                                            BatchNorm(stem), PRelu(stem)));
    body = register_module("body", Sequential());
    int64_t channels = stem;
    for (size_t stage = 0; stage < 4; ++stage) {
      const int64_t out = (layout.bottleneck ? 4 * stem : stem) << stage;
      for (int64_t k = 0; k < layout.blocks[stage]; ++k) {
        body->push_back(std::make_shared<Block>(channels, out, k == 0 ? 2 : 1, layout));
        channels = out;
      }
    }
    const int64_t side = tail_size(image_size_);
    // Under the numbers of their Sequential; 1 is its dropout and 2 its flatten.
    output_layer = register_module("output_layer", std::make_shared<torch::nn::Module>());
    norm = output_layer->register_module("0", BatchNorm(channels));
    dropout = output_layer->register_module("1", Dropout(options.dropout, "output_layer.1"));
    linear = output_layer->register_module("3", Linear(channels * side * side, options.embedding));
    features = output_layer->register_module("4", BatchNorm(options.embedding, 1e-5, 0.1, false));
    init_kaiming_fan_out(*this, context.seed);
  }

  Features forward(const Tensor& images) override {
    check_images(images);
    auto x = body->forward(input_layer->forward(images));
    x = dropout(norm(x).flatten(1));  // C·H·W order in every memory format
    const NoAutocast full_precision(c10::autocast_dispatch_keyset);
    return {.embedding = features(linear(to_full_precision(x))), .tokens = {}, .pyramid = {}};
  }

  int64_t image_size() const override { return image_size_; }

 private:
  int64_t image_size_;
  Sequential input_layer{nullptr}, body{nullptr};
  std::shared_ptr<torch::nn::Module> output_layer;
  BatchNorm norm{nullptr};
  Dropout dropout{nullptr};
  Linear linear{nullptr};
  BatchNorm features{nullptr};
};

template <bool bottleneck, bool squeeze, int64_t... kBlocks>
class IrOf : public Ir {
 public:
  IrOf(const IrOptions& options, const BackboneContext& context)
      : Ir(options, context, {{kBlocks...}, bottleneck, squeeze}) {}
};

template <bool bottleneck, bool squeeze, int64_t... kBlocks>
bool add(const char* name, const char* meaning) {
  return Backbones::get().add<IrOf<bottleneck, squeeze, kBlocks...>, IrOptions>(name, meaning);
}
[[maybe_unused]] const bool registered =
    add<false, false, 2, 2, 2, 2>("ir_18", "IR-18 (AdaFace, CVLface, TFace), 24.0 M parameters") &&
    add<false, false, 3, 4, 6, 3>("ir_34", "IR-34 (AdaFace, CVLface, TFace), 34.1 M parameters") &&
    add<false, false, 3, 4, 14, 3>("ir_50", "IR-50 (AdaFace, CVLface, TFace), 43.6 M parameters") &&
    add<false, false, 3, 13, 30, 3>("ir_101",
                                    "IR-101 (AdaFace, CVLface, TFace), 65.2 M parameters") &&
    add<true, false, 3, 8, 36, 3>("ir_152", "IR-152, of bottlenecks, 109.6 M parameters") &&
    add<true, false, 3, 24, 36, 3>("ir_200", "IR-200, of bottlenecks, 114.1 M parameters") &&
    add<false, true, 3, 4, 14, 3>("ir_se_50", "IR-50 with squeeze-excitation, 43.8 M parameters") &&
    add<false, true, 3, 13, 30, 3>("ir_se_101",
                                   "IR-101 with squeeze-excitation, 65.5 M parameters") &&
    add<true, true, 3, 8, 36, 3>("ir_se_152",
                                 "IR-152 with squeeze-excitation, 116.2 M parameters") &&
    add<true, true, 3, 24, 36, 3>("ir_se_200",
                                  "IR-200 with squeeze-excitation, 121.2 M parameters");

}  // namespace
}  // namespace facetrain
