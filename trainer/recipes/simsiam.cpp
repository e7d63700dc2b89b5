// SimSiam: a view predicts the other's projection, which counts as a constant; there are neither
// negatives nor a teacher. Chen and He 2021, arXiv:2011.10566, algorithm 1.
#include "losses/contrast.h"
#include "trainer/view_recipe.h"

namespace facetrain {
namespace {

struct SimSiamOptions {
  int64_t hidden = 2048, out = 2048, layers = 3, bottleneck = 512;
  void fields(auto& f) {
    f("hidden", hidden, at_least(1), "width of the projector");
    f("out", out, at_least(1), "size of what is compared");
    f("layers", layers, range(1, 8), "of the projector");
    f("bottleneck", bottleneck, at_least(1), "width of the predictor, of two layers");
  }
};

class SimSiam : public ViewRecipe {
 public:
  static constexpr const char* kSections[] = {"model"};

  SimSiam(const SimSiamOptions& options, const RecipeContext& context) : ViewRecipe(context) {
    projector_ = register_module("projector", ProjectionHead(ProjectionHeadOptions{
                                                  backbone_->dim(), options.hidden, options.out,
                                                  options.layers, "batch", "plain_batch"}));
    projector_->initialise(seed_, "projector");
    predictor_ = register_module("predictor", ProjectionHead(ProjectionHeadOptions{
                                                  options.out, options.bottleneck, options.out}));
    predictor_->initialise(seed_, "predictor");
    share_statistics();
  }

  StepOutput step(const Batch& batch, const Progress&) override {
    check_views(batch, 2);
    torch::Tensor projected[2], predicted[2];
    for (int64_t view : {0, 1}) {
      projected[view] = projector_->forward(feature(*backbone_, batch, global_view(view), view));
      predicted[view] = to_full_precision(predictor_->forward(projected[view]));
    }
    const auto losses = negative_cosine(predicted[0], to_full_precision(projected[1])) +
                        negative_cosine(predicted[1], to_full_precision(projected[0]));
    StepOutput out;
    out.terms.push_back({"loss", losses.sum(), 0.5});
    out.metrics.add("agreement", -losses.sum().detach() / 2, static_cast<double>(batch.rows));
    // Of unit vectors: 1 / sqrt(out) when features fill the sphere, 0 when all are one.
    out.metrics.add("spread", spread(projected[0]) * static_cast<double>(batch.rows),
                    static_cast<double>(batch.rows));
    return out;
  }

 private:
  static torch::Tensor spread(const torch::Tensor& projected) {
    const auto rows = unit_rows(to_full_precision(projected.detach()));
    return rows.var(0, /*unbiased=*/false).mean().sqrt();
  }

  ProjectionHead projector_{nullptr}, predictor_{nullptr};
};

const bool registered = Recipes::get().add<SimSiam, SimSiamOptions>(
    "simsiam", "self-supervised: a view predicts the other's projection (no labels)");

}  // namespace
}  // namespace facetrain
