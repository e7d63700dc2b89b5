// SwAV: crops predict each other's assignments to prototypes, which have equal shares over the rows
// of all ranks. Caron et al. 2020, arXiv:2006.09882, equations 1 ... 3 and section 3.2
// (multi-crop); on faces FLR (Bulat et al. 2022, arXiv:2103.16554).
#include "comm/collectives.h"
#include "losses/self_distillation.h"
#include "losses/sinkhorn.h"
#include "trainer/view_recipe.h"

namespace facetrain {
namespace {

struct SwavOptions {
  int64_t prototypes = 3000, hidden = 2048, out = 128, rounds = 3, queue = 0;
  double temperature = 0.1, epsilon = 0.05;
  Duration queue_from{15, true};
  void fields(auto& f) {
    f("prototypes", prototypes, at_least(2), "K");
    f("hidden", hidden, at_least(1), "width of the projector, of two layers");
    f("out", out, at_least(1), "size of what the prototypes are compared with");
    f("temperature", temperature, range(1e-4, 1e4), "of the prediction's softmax");
    f("epsilon", epsilon, range(1e-4, 1e4), "of the assignment: small is sharp");
    f("rounds", rounds, range(1, 1000), "of Sinkhorn's scaling");
    f("queue", queue, at_least(0),
      "features of earlier rows, over all ranks, that are assigned along: for batches that are "
      "small beside K; 0: none");
    f("queue_from", queue_from, at_least(0), "when the queue begins to be used");
  }
};

class Swav : public ViewRecipe {
 public:
  static constexpr const char* kSections[] = {"model"};

  Swav(const SwavOptions& options, const RecipeContext& context)
      : ViewRecipe(context), options_(options) {
    projector_ = register_module("projector", ProjectionHead(ProjectionHeadOptions{
                                                  backbone_->dim(), options.hidden, options.out}));
    projector_->initialise(seed_, "projector");
    prototypes_ = register_module("prototypes", Prototypes(options.out, options.prototypes));
    prototypes_->initialise(seed_, "prototypes");
    // Equal on all ranks and so independent of their number: newest first, zeros are not there yet.
    if (options.queue > 0)
      queue_ = register_buffer("queue", torch::zeros({2, options.queue, options.out}));
    share_statistics();
  }

  void prepare(std::span<const Batch>, const Progress&) override { seen_.clear(); }

  StepOutput step(const Batch& batch, const Progress& at) override {
    check_views(batch, 2);
    std::vector<torch::Tensor> features, scores;
    const auto locals = local_views(batch);
    for (int64_t view = 0; view < 2 + static_cast<int64_t>(locals.size()); ++view) {
      const std::string field =
          view < 2 ? global_view(view) : locals[static_cast<size_t>(view - 2)];
      const auto x = projector_->forward(feature(*backbone_, batch, field, view));
      features.push_back(unit_rows(to_full_precision(x)));
      scores.push_back(prototypes_->forward(features.back()));
    }
    const auto targets = assign(features, scores, at);
    torch::Tensor losses;
    for (int64_t from : {0, 1})
      for (size_t view = 0; view < scores.size(); ++view) {
        if (static_cast<int64_t>(view) == from) continue;
        const auto loss = soft_cross_entropy(scores[view], targets[from], options_.temperature);
        losses = losses.defined() ? losses + loss : loss;
      }
    const double pairs = 2 * static_cast<double>(scores.size() - 1);
    StepOutput out;
    out.terms.push_back({"loss", losses.sum() / pairs, 1});
    const auto entropy = -(targets * targets.clamp_min(1e-30).log()).sum(-1).mean(0);
    out.metrics.add("assignment_entropy", entropy.sum(), static_cast<double>(batch.rows));
    if (options_.queue > 0)
      seen_.push_back(torch::stack({features[0].detach(), features[1].detach()}, 1));
    return out;
  }

  void after_update(const Progress&) override {
    if (options_.queue == 0) return;
    const torch::NoGradGuard no_grad;
    for (const auto& own : seen_) {  // [b, 2, out]; one by one, so in the order of the stream
      const auto all = gather_rows_detached(own.to(queue_.scalar_type()).contiguous(),
                                            gather_counts(own.size(0), comm_), comm_);
      queue_.copy_(torch::cat({all.transpose(0, 1), queue_}, 1).narrow(1, 0, options_.queue));
    }
  }

 private:
  // Shares of the prototypes for the rows of both global views, [2, b, K].
  torch::Tensor assign(const std::vector<torch::Tensor>& features,
                       const std::vector<torch::Tensor>& scores, const Progress& at) {
    const torch::NoGradGuard no_grad;
    auto rows = torch::stack({scores[0].detach(), scores[1].detach()});
    const int64_t own = features[0].size(0);
    if (queue_in_use(at)) {
      // Each rank brings its part of the queue, so that every row is there once.
      const Slice part = slice_of(options_.queue, comm_.rank(), comm_.size());
      const auto old = prototypes_->forward(queue_.slice(1, part.begin, part.end).to(rows.dtype()));
      rows = torch::cat({rows, old}, 1);
    }
    return sinkhorn(rows, options_.epsilon, options_.rounds, comm_).narrow(1, 0, own);
  }

  // The queue is full, and it is time.
  bool queue_in_use(const Progress& at) const {
    if (options_.queue == 0) return false;
    return at.step >= options_.queue_from.steps(at.steps_per_epoch) &&
           queue_.select(1, options_.queue - 1).abs().sum().item<double>() > 0;
  }

  SwavOptions options_;
  ProjectionHead projector_{nullptr};
  Prototypes prototypes_{nullptr};
  torch::Tensor queue_;              // [2, L, out], or undefined
  std::vector<torch::Tensor> seen_;  // [b, 2, out] of the step's micro-batches
};

const bool registered = Recipes::get().add<Swav, SwavOptions>(
    "swav", "self-supervised: crops predict each other's prototypes (no labels)");

}  // namespace
}  // namespace facetrain
