#include "models/trunk.h"

#include <cmath>
#include <numeric>

#include "core/check.h"
#include "models/transformer_layers.h"

namespace facetrain {
namespace {

constexpr int64_t kImageSize = 224;

// data.size and model.image_size say the same thing, so they may not differ.
int64_t chosen_size(const TrunkOptions& options, const BackboneContext& context) {
  const int64_t asked = options.image_size, given = context.image_size;
  FT_CHECK(asked == 0 || given == 0 || asked == given,
           "model.image_size is {}, data.size is {}: leave one of them out", asked, given);
  return asked > 0 ? asked : given > 0 ? given : kImageSize;
}

// The number at the start of a text, and the rest behind it.
int64_t leading_number(std::string& text) {
  size_t digits = 0;
  const int64_t number = std::stoll(text, &digits);
  text.erase(0, digits);
  return number;
}

}  // namespace

Trunk::Trunk(const TrunkOptions& options, const BackboneContext& context,
             const std::vector<int64_t>& depths, Naming naming)
    : Backbone(options),
      options_(options),
      image_size_(chosen_size(options, context)),
      depths_(options.depths.empty() ? depths : options.depths),
      naming_(std::move(naming)) {
  for (const int64_t depth : depths_)
    FT_CHECK(depth >= 1, "model.depths [{}]: a stage has one block at least",
             fmt::join(depths_, ", "));
}

void Trunk::add_head(int64_t channels) {
  const auto& o = options_;
  feature = register_module("feature", EmbeddingHead(channels, o.embedding, o.dropout));
}

void Trunk::check_input(const torch::Tensor& images, int64_t least, int64_t multiple) const {
  if (!options_.any_size) return check_images(images);
  const auto fits = [&](int64_t side) { return side >= least && side % multiple == 0; };
  FT_CHECK(
      images.dim() == 4 && images.size(1) == 3 && fits(images.size(2)) && fits(images.size(3)),
      "this network takes images [B, 3, H, W] with sides from {} that are multiples of {}, found "
      "[{}]",
      least, multiple, fmt::join(images.sizes(), ", "));
}

int64_t Trunk::blocks() const {
  return std::accumulate(depths_.begin(), depths_.end(), int64_t{0});
}

int64_t Trunk::layers() const { return blocks() + 2; }

int64_t Trunk::layer_of(const std::string& parameter) const {
  if (parameter.starts_with("stem.") || parameter.starts_with("patch_embed.")) return 0;
  if (!parameter.starts_with(naming_.stages)) return layers() - 1;
  std::string rest = parameter.substr(naming_.stages.size());
  const auto stage = static_cast<size_t>(leading_number(rest) - naming_.first);
  int64_t block = 0;
  if (rest.starts_with(naming_.blocks)) {
    rest.erase(0, naming_.blocks.size());
    block = leading_number(rest);
  }
  for (size_t k = 0; k < stage; ++k) block += depths_.at(k);
  return 1 + block;
}

std::string Trunk::block_name(int64_t stage, int64_t block) const {
  return fmt::format("{}{}{}{}", naming_.stages, stage + naming_.first, naming_.blocks, block);
}

std::vector<std::string> Trunk::taps() const {
  std::vector<std::string> names;
  for (size_t stage = 0; stage < depths_.size(); ++stage)
    for (int64_t block = 0; block < depths_[stage]; ++block)
      names.push_back(block_name(static_cast<int64_t>(stage), block));
  return names;
}

double Trunk::drop_path_of(int64_t index) const {
  return drop_path_at(options_.drop_path, index, blocks());
}

void Trunk::tap(Features& features, int64_t stage, int64_t block, const torch::Tensor& map) const {
  const auto name = block_name(stage, block);
  if (asked_for(name)) features.taps[name] = map;
}

void init_as_pytorch(torch::Tensor weight, torch::Tensor bias, uint64_t seed,
                     const std::string& name) {
  const double bound = 1 / std::sqrt(static_cast<double>(weight[0].numel()));
  init_uniform(std::move(weight), seed, name + ".weight", -bound, bound);
  if (bias.defined()) init_uniform(std::move(bias), seed, name + ".bias", -bound, bound);
}

}  // namespace facetrain
