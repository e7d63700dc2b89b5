// Metric learning: a network trained by a loss over the pairs of each batch (losses/pair_loss.h),
// without class rows. Schroff et al. 2015 (FaceNet), arXiv:1503.03832.
//
// The pairs are those of a micro-batch, over all ranks: trainer.accumulate > 1 leaves fewer of
// them.
#include "losses/pair_loss.h"
#include "trainer/comm_statistics.h"
#include "trainer/embedding_evaluation.h"
#include "trainer/recipe.h"

namespace facetrain {
namespace {

struct MetricLearningOptions {
  void fields(auto&) {}
};

class MetricLearning : public Recipe {
 public:
  static constexpr const char* kSections[] = {"model", "pair_loss"};

  MetricLearning(const MetricLearningOptions&, const RecipeContext& context)
      : comm_(context.comm),
        normalization_(context.normalization),
        backbone_(
            create_backbone(context.root.section("model"), {context.seed, context.image_size})),
        loss_(PairLosses::get().create(context.root.section("loss"))) {
    if (backbone_->common().batch_norm == "sync")
      set_batch_norm_reducer(*backbone_, std::make_shared<CommStatistics>(context.comm));
    register_module("backbone", backbone_);
  }

  void prepare(std::span<const Batch> batches, const Progress& at) override {
    labels_.clear();
    next_ = 0;
    int64_t rows = 0, anchors = 0;
    for (const auto& batch : batches) {
      labels_.push_back(gather_pair_labels(batch["identity"], comm_));
      rows += batch.global_rows;
      anchors += labels_.back().anchors_of_ranks;
    }
    FT_CHECK(anchors > 0,
             "step {}: metric_learning wants two images of one identity in a batch, found {} rows "
             "in {} micro-batches without one such pair; set data.sampler={{name: balanced, "
             "images: 4}}, and trainer.accumulate so that a micro-batch holds whole identities",
             at.step + 1, rows, batches.size());
  }

  std::map<std::string, double> counts(std::span<const Batch>) const override {
    int64_t anchors = 0;
    for (const auto& labels : labels_) anchors += labels.anchors;
    return {{"loss", static_cast<double>(anchors)}};
  }

  StepOutput step(const Batch& batch, const Progress&) override {
    const PairLabels& labels = labels_.at(next_++);
    const auto embedding = embed(*backbone_, batch["image"], normalization_);
    const PairSums sums = sum_pair_loss(*loss_, embedding, labels, comm_);
    const auto anchors = static_cast<double>(labels.anchors);
    StepOutput out;
    out.terms.push_back({"loss", sums.loss, 1});
    out.metrics.add("same_cosine", sums.same_cosine, anchors);
    out.metrics.add("other_cosine", sums.other_cosine, anchors);
    return out;
  }

  std::map<std::string, double> evaluate(std::span<const EvaluationSet> sets) override {
    return evaluate_network(sets, *backbone_, normalization_, comm_);
  }

  Backbone& exported() override { return *backbone_; }

 private:
  Communicator& comm_;
  Normalization normalization_;
  std::shared_ptr<Backbone> backbone_;
  std::shared_ptr<PairLoss> loss_;
  std::vector<PairLabels> labels_;  // of the step's micro-batches
  size_t next_ = 0;                 // the micro-batch that step() is at
};

const bool registered = Recipes::get().add<MetricLearning, MetricLearningOptions>(
    "metric_learning", "a network under a loss over pairs: triplet, contrastive, ...");

}  // namespace
}  // namespace facetrain
