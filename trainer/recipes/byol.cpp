// BYOL: a view predicts what a teacher makes of the other; there are no negatives. Grill et al.
// 2020, arXiv:2006.07733, equations 2 and 3.
#include "losses/contrast.h"
#include "trainer/view_recipe.h"

namespace facetrain {
namespace {

struct ByolOptions {
  double momentum = 0.996;
  int64_t hidden = 4096, out = 256;
  void fields(auto& f) {
    f("momentum", momentum, range(0, 1), "of the teacher at the start; a cosine takes it to 1");
    f("hidden", hidden, at_least(1), "width of projector and predictor, of two layers each");
    f("out", out, at_least(1), "size of what is compared");
  }
};

class Byol : public ViewRecipe {
 public:
  static constexpr const char* kSections[] = {"model"};

  Byol(const ByolOptions& options, const RecipeContext& context)
      : ViewRecipe(context), options_(options) {
    const ProjectionHeadOptions head{backbone_->dim(), options.hidden, options.out};
    projector_ = register_module("projector", ProjectionHead(head));
    projector_->initialise(seed_, "projector");
    predictor_ = register_module("predictor", ProjectionHead(ProjectionHeadOptions{
                                                  options.out, options.hidden, options.out}));
    predictor_->initialise(seed_, "predictor");
    teacher_ = register_module("teacher", std::make_shared<Teacher>(Teacher::Mode::kTrain));
    target_backbone_ = teacher_->follow("backbone", *backbone_, another_backbone());
    target_projector_ =
        teacher_->follow("projector", *projector_, std::make_shared<ProjectionHeadImpl>(head));
    share_statistics();
  }

  StepOutput step(const Batch& batch, const Progress&) override {
    check_views(batch, 2);
    const auto losses = negative_cosine(predict(batch, 0), target(batch, 1)) +
                        negative_cosine(predict(batch, 1), target(batch, 0));
    StepOutput out;
    out.terms.push_back({"loss", (4 + 2 * losses).sum(), 1});  // 2 - 2 cos of each direction
    out.metrics.add("agreement", -losses.sum().detach() / 2, static_cast<double>(batch.rows));
    return out;
  }

  void after_update(const Progress& at) override {
    teacher_->update(teacher_momentum(options_.momentum, at));
  }

 private:
  torch::Tensor predict(const Batch& batch, int64_t view) {
    const auto x = feature(*backbone_, batch, global_view(view), view);
    return to_full_precision(predictor_->forward(projector_->forward(x)));
  }
  torch::Tensor target(const Batch& batch, int64_t view) {
    const torch::NoGradGuard no_grad;
    const auto x = feature(*target_backbone_, batch, global_view(view), view);
    return to_full_precision(target_projector_->forward(x));
  }

  ByolOptions options_;
  ProjectionHead projector_{nullptr}, predictor_{nullptr};
  std::shared_ptr<Teacher> teacher_;
  std::shared_ptr<Backbone> target_backbone_;
  std::shared_ptr<ProjectionHeadImpl> target_projector_;
};

const bool registered = Recipes::get().add<Byol, ByolOptions>(
    "byol", "self-supervised: a view predicts what a teacher makes of the other (no labels)");

}  // namespace
}  // namespace facetrain
