// DINO: a student's small and large crops agree with what a teacher makes of the large ones, as
// distributions over prototypes. Caron et al. 2021, arXiv:2104.14294, algorithm 1; the options
// `assignment: sinkhorn` and `koleo` are DINOv2's (Oquab et al. 2023, arXiv:2304.07193, section 4).
#include "comm/collectives.h"
#include "losses/contrast.h"
#include "losses/self_distillation.h"
#include "losses/sinkhorn.h"
#include "trainer/view_recipe.h"

namespace facetrain {
namespace {

struct DinoOptions {
  int64_t prototypes = 65536, hidden = 2048, bottleneck = 256, layers = 3;
  double student_temperature = 0.1, centre_momentum = 0.9, momentum = 0.996, koleo = 0;
  Scheduled teacher_temperature{0.04};
  std::string assignment = "centre";
  void fields(auto& f) {
    f("prototypes", prototypes, at_least(2), "K of the head's last layer");
    f("hidden", hidden, at_least(1), "width of the head");
    f("bottleneck", bottleneck, at_least(1), "size of what the prototypes are compared with");
    f("layers", layers, range(1, 8), "of the head before the prototypes");
    f("student_temperature", student_temperature, range(1e-4, 1e4), "of the student's softmax");
    f("teacher_temperature", teacher_temperature, range(1e-4, 1e4),
      "of the teacher's; a number or a schedule");
    f("assignment", assignment, one_of("centre", "sinkhorn"),
      "what keeps the teacher from one prototype for all: a running centre, or equal shares");
    f("centre_momentum", centre_momentum, range(0, 1), "of the centre");
    f("momentum", momentum, range(0, 1), "of the teacher at the start; a cosine takes it to 1");
    f("koleo", koleo, at_least(0), "weight of the KoLeo term, which spreads features (DINOv2 0.1)");
  }
};

class Dino : public ViewRecipe {
 public:
  static constexpr const char* kSections[] = {"model"};

  Dino(const DinoOptions& options, const RecipeContext& context)
      : ViewRecipe(context), options_(options) {
    const ProjectionHeadOptions chain{
        backbone_->dim(), options.hidden, options.bottleneck, options.layers, "none",
        "none",           "gelu"};
    head_ = register_module("head", ProjectionHead(chain));
    head_->initialise(seed_, "head", 0.02);
    prototypes_ = register_module("prototypes", Prototypes(options.bottleneck, options.prototypes));
    prototypes_->initialise(seed_, "prototypes");
    teacher_ = register_module("teacher", std::make_shared<Teacher>(Teacher::Mode::kEval));
    teacher_backbone_ = teacher_->follow("backbone", *backbone_, another_backbone());
    teacher_head_ = teacher_->follow("head", *head_, std::make_shared<ProjectionHeadImpl>(chain));
    teacher_prototypes_ =
        teacher_->follow("prototypes", *prototypes_,
                         std::make_shared<PrototypesImpl>(options.bottleneck, options.prototypes));
    centre_ = register_buffer("centre", torch::zeros({options.prototypes}));
    share_statistics();
  }

  void prepare(std::span<const Batch>, const Progress&) override { scored_.clear(); }

  StepOutput step(const Batch& batch, const Progress& at) override {
    check_views(batch, 2);
    const auto targets = teach(batch, at);
    StepOutput out;
    torch::Tensor losses;
    int64_t pairs = 0;
    const auto locals = local_views(batch);
    for (int64_t view = 0; view < 2 + static_cast<int64_t>(locals.size()); ++view) {
      const std::string field =
          view < 2 ? global_view(view) : locals[static_cast<size_t>(view - 2)];
      const auto x = feature(*backbone_, batch, field, view);
      const auto scores = prototypes_->forward(to_full_precision(head_->forward(x)));
      for (int64_t other : {0, 1}) {
        if (other == view) continue;
        const auto loss = soft_cross_entropy(scores, targets[other], options_.student_temperature);
        losses = losses.defined() ? losses + loss : loss;
        ++pairs;
      }
      if (view < 2 && options_.koleo > 0)
        out.terms.push_back({"loss", spread(to_full_precision(x)).sum(), options_.koleo});
    }
    out.terms.push_back({"loss", losses.sum() / static_cast<double>(pairs), 1});
    const auto entropy = -(targets * targets.clamp_min(1e-30).log()).sum(-1).mean(0);
    out.metrics.add("teacher_entropy", entropy.sum(), static_cast<double>(batch.rows));
    return out;
  }

  void after_update(const Progress& at) override {
    teacher_->update(teacher_momentum(options_.momentum, at));
    if (options_.assignment == "centre")
      update_centre(centre_, torch::cat(scored_), options_.centre_momentum, comm_);
  }

 private:
  torch::Tensor spread(const torch::Tensor& features) {
    const auto own = unit_rows(features);
    const auto counts = gather_counts(own.size(0), comm_);
    return koleo(own, gather_rows(own, counts, comm_), first_row(counts, comm_.rank()));
  }

  // The teacher's distributions over the prototypes for both global views, [2, b, K].
  torch::Tensor teach(const Batch& batch, const Progress& at) {
    const torch::NoGradGuard no_grad;
    std::vector<torch::Tensor> scores;
    for (int64_t view : {0, 1}) {
      const auto x = feature(*teacher_backbone_, batch, global_view(view), view);
      scores.push_back(teacher_prototypes_->forward(to_full_precision(teacher_head_->forward(x))));
      if (options_.assignment == "centre") scored_.push_back(scores.back());
    }
    const double temperature = options_.teacher_temperature(at.step, at.steps_per_epoch);
    return options_.assignment == "centre"
               ? centred_softmax(torch::stack(scores), centre_, temperature)
               : sinkhorn(torch::stack(scores), temperature, 3, comm_);
  }

  DinoOptions options_;
  ProjectionHead head_{nullptr};
  Prototypes prototypes_{nullptr};
  std::shared_ptr<Teacher> teacher_;
  std::shared_ptr<Backbone> teacher_backbone_;
  std::shared_ptr<ProjectionHeadImpl> teacher_head_;
  std::shared_ptr<PrototypesImpl> teacher_prototypes_;
  torch::Tensor centre_;               // [K]
  std::vector<torch::Tensor> scored_;  // the teacher's, of this step's micro-batches: the centre's
};

const bool registered = Recipes::get().add<Dino, DinoOptions>(
    "dino", "self-supervised: crops agree with a teacher's distribution (no labels)");

}  // namespace
}  // namespace facetrain
