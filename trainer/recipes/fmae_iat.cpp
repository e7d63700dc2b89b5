// FMAE-IAT: fine-tuning on attributes (action units) while a head that guesses the identity pushes
// it out of the feature, by a reversed gradient. Ning et al. 2024, arXiv:2407.11243, section 3.2.
//
// Both losses are sigmoid cross-entropies; the identity's target is one-hot, one against the rest.
#include "losses/gradient_reversal.h"
#include "models/init_weights.h"
#include "models/layers.h"
#include "trainer/comm_statistics.h"
#include "trainer/embedding_evaluation.h"
#include "trainer/recipe.h"

namespace facetrain {
namespace {

struct FmaeIatOptions {
  std::string column = "attributes";
  int64_t outputs = 0;
  Scheduled strength{1};
  double init_deviation = 2e-5;
  void fields(auto& f) {
    f("column", column, "column of bytes with one entry an attribute or action unit, 255 missing");
    f("outputs", outputs, at_least(0),
      "entries of the column (`facetrain shards info` names them)");
    f("strength", strength, range(0, 1000),
      "of the reversed gradient; a number or a schedule (BP4D 2, BP4D+ 1, DISFA 0.5); 0: FMAE");
    f("init_deviation", init_deviation, range(0, 10), "of both heads' weights, normal");
  }
};

class FmaeIat : public Recipe {
 public:
  static constexpr const char* kSections[] = {"model"};

  FmaeIat(const FmaeIatOptions& options, const RecipeContext& context)
      : options_(options),
        comm_(context.comm),
        normalization_(context.normalization),
        backbone_(
            create_backbone(context.root.section("model"), {context.seed, context.image_size})) {
    FT_CHECK(options.outputs >= 1,
             "recipe.outputs: wanted the number of entries of the column '{}', found {}; "
             "`facetrain shards info` prints them",
             options.column, options.outputs);
    FT_CHECK(context.identities >= 2,
             "recipe fmae_iat wants two identities or more in the data, found {}",
             context.identities);
    register_module("backbone", backbone_);
    head_ = register_module("head", Linear(backbone_->dim(), options.outputs));
    identity_ = register_module("identity_head", Linear(backbone_->dim(), context.identities));
    init_normal(head_->weight, context.seed, "head.weight", 0, options.init_deviation);
    init_normal(identity_->weight, context.seed, "identity_head.weight", 0, options.init_deviation);
    if (backbone_->common().batch_norm == "sync")
      for (const auto& child : children())
        set_batch_norm_reducer(*child, std::make_shared<CommStatistics>(context.comm));
  }

  std::vector<std::string> columns() const override { return {"identity", options_.column}; }

  // The attributes' units are their known entries; the identity's are entries of the one-hot.
  std::map<std::string, double> counts(std::span<const Batch> batches) const override {
    double entries = 0, rows = 0;
    for (const auto& batch : batches) {
      entries += known(batch).sum().item<double>();
      rows += static_cast<double>(batch.rows);
    }
    return {{"attributes", entries},
            {"identity", rows * static_cast<double>(identity_->weight.size(0))}};
  }

  StepOutput step(const Batch& batch, const Progress& at) override {
    const auto feature = embed(*backbone_, batch["image"], normalization_);
    const auto scores = to_full_precision(head_->forward(feature));
    const auto has = known(batch).to(scores.scalar_type());
    const auto truth = batch[options_.column].eq(1).to(scores.scalar_type());
    const auto losses =
        at::binary_cross_entropy_with_logits(scores, truth, {}, {}, at::Reduction::None);
    const auto reversed = reverse_gradient(feature, options_.strength(at.step, at.steps_per_epoch));
    const auto guesses = to_full_precision(identity_->forward(reversed));
    const auto who = torch::one_hot(batch["identity"], guesses.size(1)).to(guesses.scalar_type());
    const auto confusion =
        at::binary_cross_entropy_with_logits(guesses, who, {}, {}, at::Reduction::None);
    StepOutput out;
    out.terms.push_back({"attributes", (losses * has).sum(), 1});
    out.terms.push_back({"identity", confusion.sum(), 1});
    const auto right = (scores.detach() > 0).eq(truth > 0.5).to(scores.scalar_type());
    out.metrics.add("accuracy", (right * has).sum(), has.sum().item<double>());
    out.metrics.add("identity_accuracy", guesses.detach().argmax(1).eq(batch["identity"]).sum(),
                    static_cast<double>(batch.rows));
    return out;
  }

  std::map<std::string, double> evaluate(std::span<const EvaluationSet> sets) override {
    return evaluate_network(sets, *backbone_, normalization_, comm_);
  }

  Backbone& exported() override { return *backbone_; }

 private:
  torch::Tensor known(const Batch& batch) const {
    const auto& values = batch[options_.column];
    FT_CHECK(values.dim() == 2 && values.size(1) == options_.outputs &&
                 values.scalar_type() == torch::kByte,
             "recipe.column '{}': wanted {} bytes an image (recipe.outputs), found [{}]",
             options_.column, options_.outputs, fmt::join(values.sizes().vec(), ", "));
    return values != kMissingByte;
  }

  FmaeIatOptions options_;
  Communicator& comm_;
  Normalization normalization_;
  std::shared_ptr<Backbone> backbone_;
  Linear head_{nullptr}, identity_{nullptr};
};

const bool registered = Recipes::get().add<FmaeIat, FmaeIatOptions>(
    "fmae_iat", "attributes (action units) with the identity pushed out of the feature");

}  // namespace
}  // namespace facetrain
