// Five landmarks from a linear head: the mean squared distance, in units of the image's side.
#include "models/layers.h"
#include "trainer/recipe.h"

namespace facetrain {
namespace {

struct LandmarksOptions {
  double weight = 1;
  void fields(auto& f) { f("weight", weight, at_least(0), "of the loss"); }
};

class Landmarks : public Recipe {
 public:
  static constexpr const char* kSections[] = {"model"};  // of the configuration, beside recipe:

  Landmarks(const LandmarksOptions& options, const RecipeContext& context)
      : options_(options), normalization_(context.normalization) {
    backbone_ = create_backbone(context.root.section("model"), {context.seed, context.image_size});
    head_ = Linear(backbone_->dim(), 10);
    init_normal(head_->weight, context.seed, "head.weight", 0, 0.01);
    const torch::NoGradGuard no_grad;
    head_->bias.fill_(0.5);
    register_module("backbone", backbone_);
    register_module("head", head_);
  }

  std::vector<std::string> columns() const override { return {"landmarks5"}; }

  // Forward only. The sum over this rank's rows: the trainer divides by the rows of all ranks.
  StepOutput step(const Batch& batch, const Progress&) override {
    const auto type = head_->weight.scalar_type();
    const auto images = normalise(batch["image"], normalization_, type);
    const auto found = head_(backbone_->forward(images).embedding).view({-1, 5, 2});
    const auto wanted = batch["landmarks5"].to(type) / static_cast<double>(images.size(3));
    StepOutput out;
    out.terms.push_back({"loss", (found - wanted).square().sum(2).mean(1).sum(), options_.weight});
    return out;
  }

  Backbone& exported() override { return *backbone_; }

 private:
  LandmarksOptions options_;
  Normalization normalization_;
  std::shared_ptr<Backbone> backbone_;
  Linear head_{nullptr};
};

const bool registered =
    Recipes::get().add<Landmarks, LandmarksOptions>("landmarks", "five landmarks, mean square");

}  // namespace
}  // namespace facetrain
