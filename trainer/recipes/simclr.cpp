// SimCLR: two views of an image agree, those of all other images do not. Chen et al. 2020,
// arXiv:2002.05709, algorithm 1; over the rows of all ranks, with gradients through the gather.
#include "comm/collectives.h"
#include "losses/contrast.h"
#include "trainer/view_recipe.h"

namespace facetrain {
namespace {

struct SimClrOptions {
  double temperature = 0.1;
  int64_t hidden = 2048, out = 128, layers = 2;
  bool as_released = false;
  void fields(auto& f) {
    f("temperature", temperature, range(1e-4, 1e4), "of the softmax");
    f("hidden", hidden, at_least(1), "width of the projector");
    f("out", out, at_least(1), "size of what is compared");
    f("layers", layers, range(1, 8), "of the projector");
    f("as_released", as_released, "the sum of both directions, as its code has it, not their mean");
  }
};

class SimClr : public ViewRecipe {
 public:
  static constexpr const char* kSections[] = {"model"};

  SimClr(const SimClrOptions& options, const RecipeContext& context)
      : ViewRecipe(context), options_(options) {
    projector_ = register_module("projector", ProjectionHead(ProjectionHeadOptions{
                                                  backbone_->dim(), options.hidden, options.out,
                                                  options.layers, "batch", "plain_batch"}));
    projector_->initialise(seed_, "projector");
    share_statistics();
  }

  StepOutput step(const Batch& batch, const Progress&) override {
    check_views(batch, 2);
    const auto one = project(batch, 0), two = project(batch, 1);
    const auto counts = gather_counts(batch.rows, comm_);
    const auto all_one = gather_rows(one, counts, comm_), all_two = gather_rows(two, counts, comm_);
    const int64_t first = first_row(counts, comm_.rank());
    const auto losses = nt_xent(one, all_one, all_two, first, options_.temperature) +
                        nt_xent(two, all_two, all_one, first, options_.temperature);
    StepOutput out;
    out.terms.push_back({"loss", losses.sum(), options_.as_released ? 1.0 : 0.5});
    out.metrics.add("agreement", (one * two).sum().detach(), static_cast<double>(batch.rows));
    return out;
  }

 private:
  torch::Tensor project(const Batch& batch, int64_t view) {
    return unit_rows(to_full_precision(
        projector_->forward(feature(*backbone_, batch, global_view(view), view))));
  }

  SimClrOptions options_;
  ProjectionHead projector_{nullptr};
};

const bool registered = Recipes::get().add<SimClr, SimClrOptions>(
    "simclr", "self-supervised: two views against all others (NT-Xent, no labels)");

}  // namespace
}  // namespace facetrain
