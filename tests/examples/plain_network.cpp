// Four convolutions of stride 2, the mean of what is left, and a linear layer.
#include <torch/nn/modules/container/sequential.h>

#include <cmath>

#include "models/backbone.h"
#include "models/batch_norm.h"
#include "models/layers.h"

namespace facetrain {
namespace {

class PlainNetwork : public Backbone {
 public:
  PlainNetwork(const CommonModelOptions& options, const BackboneContext& context)
      : Backbone(options), image_size_(context.image_size > 0 ? context.image_size : 112) {
    int64_t channels = 3;
    layers = register_module("layers", torch::nn::Sequential());
    for (const int64_t wide : {32, 64, 128, 256}) {
      const int64_t out = options.scaled(wide);
      layers->push_back(Conv2d(ConvOptions{channels, out, 3, 2, 1}));
      layers->push_back(BatchNorm(out));
      layers->push_back(PRelu(out));
      channels = out;
    }
    fc = register_module("fc", Linear(channels, options.embedding));
    for (const auto& item : named_parameters())  // from (seed, name): equal on every rank
      if (item.value().dim() > 1)
        init_normal(item.value(), context.seed, item.key(), 0,
                    std::sqrt(2.0 / static_cast<double>(item.value()[0].numel())));
  }

  Features forward(const torch::Tensor& images) override {
    check_images(images);
    return {.embedding = fc(layers->forward(images).mean(torch::IntArrayRef{2, 3})),
            .tokens = {},
            .pyramid = {}};
  }

  int64_t image_size() const override { return image_size_; }

 private:
  int64_t image_size_;
  torch::nn::Sequential layers{nullptr};
  Linear fc{nullptr};
};

const bool registered = Backbones::get().add<PlainNetwork, CommonModelOptions>(
    "plain_network", "four convolutions and a linear layer");

}  // namespace
}  // namespace facetrain
