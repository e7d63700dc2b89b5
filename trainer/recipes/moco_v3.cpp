// MoCo v3: queries of one view find the key of the other, made by a momentum encoder, among the
// keys of all ranks. Chen et al. 2021, arXiv:2104.02057, algorithm 1.
//
// The momentum encoder moves before the keys of a step are made; here that is done after the step
// before, which is the same, since both networks start equal.
#include "comm/collectives.h"
#include "losses/contrast.h"
#include "trainer/view_recipe.h"

namespace facetrain {
namespace {

struct MocoV3Options {
  double temperature = 0.2, momentum = 0.99;
  int64_t hidden = 4096, out = 256, layers = 3;
  bool freeze_patches = true;
  void fields(auto& f) {
    f("temperature", temperature, range(1e-4, 1e4), "of the softmax (ViT 0.2, ResNet 1)");
    f("momentum", momentum, range(0, 1), "of the teacher at the start; a cosine takes it to 1");
    f("hidden", hidden, at_least(1), "width of projector and predictor");
    f("out", out, at_least(1), "size of what is compared");
    f("layers", layers, range(1, 8), "of the projector (ViT 3, ResNet 2)");
    f("freeze_patches", freeze_patches, "a ViT's patch projection stays as it was drawn");
  }
};

class MocoV3 : public ViewRecipe, public FreezePolicy {
 public:
  static constexpr const char* kSections[] = {"model"};

  MocoV3(const MocoV3Options& options, const RecipeContext& context)
      : ViewRecipe(context), options_(options) {
    const ProjectionHeadOptions projector{backbone_->dim(), options.hidden, options.out,
                                          options.layers,   "batch",        "plain_batch"};
    projector_ = register_module("projector", ProjectionHead(projector));
    projector_->initialise(seed_, "projector");
    predictor_ = register_module(
        "predictor", ProjectionHead(ProjectionHeadOptions{options.out, options.hidden, options.out,
                                                          2, "batch", "plain_batch"}));
    predictor_->initialise(seed_, "predictor");
    teacher_ = register_module("teacher", std::make_shared<Teacher>(Teacher::Mode::kTrain));
    key_backbone_ = teacher_->follow("backbone", *backbone_, another_backbone());
    key_projector_ =
        teacher_->follow("projector", *projector_, std::make_shared<ProjectionHeadImpl>(projector));
    share_statistics();
  }

  std::vector<std::string> frozen() const override {
    std::vector<std::string> names;
    for (const auto& item : backbone_->named_parameters())
      if (options_.freeze_patches && item.key().starts_with("patch_embed."))
        names.push_back("backbone." + item.key());
    return names;
  }

  StepOutput step(const Batch& batch, const Progress&) override {
    check_views(batch, 2);
    const auto counts = gather_counts(batch.rows, comm_);
    torch::Tensor keys[2], queries[2];
    for (int64_t view : {0, 1}) {
      queries[view] = query(batch, view);
      keys[view] = gather_rows_detached(key(batch, view), counts, comm_);
    }
    const int64_t first = first_row(counts, comm_.rank());
    const auto losses = info_nce(queries[0], keys[1], first, options_.temperature) +
                        info_nce(queries[1], keys[0], first, options_.temperature);
    StepOutput out;
    out.terms.push_back({"loss", losses.sum(), 2 * options_.temperature});
    out.metrics.add("agreement", (queries[0].detach() * keys[1].narrow(0, first, batch.rows)).sum(),
                    static_cast<double>(batch.rows));
    return out;
  }

  void after_update(const Progress& at) override {
    Progress next = at;
    ++next.step;
    teacher_->update(teacher_momentum(options_.momentum, next));
  }

 private:
  torch::Tensor query(const Batch& batch, int64_t view) {
    const auto x = feature(*backbone_, batch, global_view(view), view);
    return unit_rows(to_full_precision(predictor_->forward(projector_->forward(x))));
  }
  torch::Tensor key(const Batch& batch, int64_t view) {
    const torch::NoGradGuard no_grad;
    const auto x = feature(*key_backbone_, batch, global_view(view), view);
    return unit_rows(to_full_precision(key_projector_->forward(x)));
  }

  MocoV3Options options_;
  ProjectionHead projector_{nullptr}, predictor_{nullptr};
  std::shared_ptr<Teacher> teacher_;
  std::shared_ptr<Backbone> key_backbone_;
  std::shared_ptr<ProjectionHeadImpl> key_projector_;
};

const bool registered = Recipes::get().add<MocoV3, MocoV3Options>(
    "moco_v3", "self-supervised: a momentum encoder's keys among those of all ranks (no labels)");

}  // namespace
}  // namespace facetrain
