#include "models/backbone.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "models/init_weights.h"

namespace facetrain {

int64_t CommonModelOptions::scaled(int64_t channels) const {
  const double wanted = static_cast<double>(channels) * width;
  const int64_t whole = std::llround(wanted);
  FT_CHECK(whole >= 1 && std::abs(wanted - static_cast<double>(whole)) < 1e-6,
           "model.width {} makes {} of {} channels: choose a width that leaves whole numbers, such "
           "as 0.25, 0.5 or 2",
           width, wanted, channels);
  return whole;
}

std::string Backbone::our_name(const std::string& theirs) {
  if (theirs == "mbf" || theirs == "mbf_large") return "mobilefacenet" + theirs.substr(3);
  for (const char* depth : {"18", "34", "50", "100", "200"})
    if (theirs == std::string("r") + depth) return std::string("iresnet") + depth;
  return "";
}

void Backbone::check_images(const torch::Tensor& images) const {
  const int64_t size = image_size();
  FT_CHECK(
      images.dim() == 4 && images.size(1) == 3 && images.size(2) == size && images.size(3) == size,
      "this network was built for images [B, 3, {0}, {0}], found [{1}]: set data.size or "
      "data.fit",
      size, fmt::join(images.sizes(), ", "));
}

void Backbone::ask_for(const std::vector<std::string>& names) {
  const auto offered = taps();
  for (const auto& name : names)
    FT_CHECK(std::find(offered.begin(), offered.end(), name) != offered.end(),
             "this network has no intermediate output '{}'; known: {}", name,
             offered.empty() ? "none" : fmt::format("{}", fmt::join(offered, ", ")));
  asked_ = {names.begin(), names.end()};
}

std::shared_ptr<Backbone> create_backbone(const Config& section, const BackboneContext& context) {
  auto backbone = Backbones::get().create(section, context);
  const auto& common = backbone->common();
  if (!common.init.empty())
    report(load_weights(*backbone, common.init, common.strict, common.colors()));
  return backbone;
}

int64_t tail_size(int64_t image_size) {
  FT_CHECK(image_size >= 16,
           "this network halves its input four times and wants images of 16 "
           "pixels or more, found data.size {}",
           image_size);
  for (int i = 0; i < 4; ++i) image_size = (image_size + 1) / 2;
  return image_size;
}

}  // namespace facetrain
