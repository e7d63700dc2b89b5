#include "data/views.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include "core/random.h"

namespace facetrain {
namespace {

struct ViewsOptions {
  Config views;
  void fields(auto& f) {
    f("views", views,
      "list of {field: .., count: 1, transforms: [..]}; they take the place of `image`");
  }
};

struct View {
  std::vector<std::string> fields;
  TransformList transforms;
};

class Views final : public Transform {
 public:
  explicit Views(const ViewsOptions& options) {
    for (const auto& item : options.views.node().list) {
      const auto view = Config(item).as<ViewOptions>();
      View made{{}, make_transforms(view.transforms)};
      for (int64_t k = 0; k < view.count; ++k)
        made.fields.push_back(view.count == 1 ? view.field : fmt::format("{}.{}", view.field, k));
      views_.push_back(std::move(made));
    }
  }

  void apply(Sample& sample, uint64_t key) const override {
    const at::Tensor image = sample.fields.at("image");
    sample.fields.erase("image");
    for (const auto& view : views_)
      for (const auto& field : view.fields) {
        // Transforms see a sample with labels of its own, since geometry moves those too.
        Sample one{{}, sample.index, sample.position};
        one.fields["image"] = image.clone();
        const uint64_t own = random_key(key, name_key(field));
        for (const auto& [name, transform] : view.transforms)
          transform->apply(one, random_key(own, name_key(name)));
        sample.fields[field] = one.fields.at("image");
      }
  }

 private:
  std::vector<View> views_;
};

const bool registered = Transforms::get().add<Views, ViewsOptions>(
    "views", "several images of one decoded sample (multi-crop), each with its own transforms");

}  // namespace
}  // namespace facetrain
