// Classes of a label column: fine-tuning of a network, or a linear probe of a frozen one
// (trainer.freeze: ['backbone.*'], head: batch_norm; MAE, He et al. 2022, arXiv:2111.06377,
// appendix A.1 and A.2). Evaluate with the protocol `classification`.
#include "models/batch_norm.h"
#include "models/init_weights.h"
#include "models/layers.h"
#include "trainer/comm_statistics.h"
#include "trainer/embedding_evaluation.h"
#include "trainer/recipe.h"

namespace facetrain {
namespace {

struct ClassificationOptions {
  std::string column = "expression", head = "linear";
  int64_t classes = 0;
  double label_smoothing = 0, init_deviation = 0.01;
  void fields(auto& f) {
    f("column", column, "label column of the classes (expression, age_group, identity)");
    f("classes", classes, at_least(0),
      "how many; 0 with column: identity: as many as the data has");
    f("head", head, one_of("linear", "batch_norm"),
      "a Linear, or a batch norm without affine and a Linear (MAE's probe)");
    f("label_smoothing", label_smoothing, range(0, 0.99), "share of the target for all classes");
    f("init_deviation", init_deviation, range(0, 10),
      "of the Linear's weight, normal (MAE: probe 0.01, fine-tuning 2e-5)");
  }
};

class Classification : public Recipe {
 public:
  static constexpr const char* kSections[] = {"model"};

  Classification(const ClassificationOptions& options, const RecipeContext& context)
      : options_(options),
        comm_(context.comm),
        normalization_(context.normalization),
        backbone_(
            create_backbone(context.root.section("model"), {context.seed, context.image_size})) {
    if (options_.classes == 0 && options_.column == "identity")
      options_.classes = context.identities;
    FT_CHECK(options_.classes >= 2,
             "recipe.classes: wanted two classes or more of the column '{}', found {}; `facetrain "
             "shards info` prints a column's classes",
             options_.column, options_.classes);
    register_module("backbone", backbone_);
    if (options.head == "batch_norm")
      norm_ = register_module("norm", BatchNorm(backbone_->dim(), 1e-6, 0.1, /*affine=*/false));
    linear_ = register_module("head", Linear(backbone_->dim(), options_.classes));
    init_normal(linear_->weight, context.seed, "head.weight", 0, options_.init_deviation);
    if (backbone_->common().batch_norm == "sync")
      for (const auto& child : children())
        set_batch_norm_reducer(*child, std::make_shared<CommStatistics>(context.comm));
  }

  std::vector<std::string> columns() const override { return {options_.column}; }

  // Rows whose label is missing count nowhere.
  std::map<std::string, double> counts(std::span<const Batch> batches) const override {
    double rows = 0;
    for (const auto& batch : batches) rows += known(batch).sum().item<double>();
    return {{"loss", rows}};
  }

  StepOutput step(const Batch& batch, const Progress&) override {
    const auto labels = batch[options_.column].to(torch::kLong), has = known(batch);
    FT_CHECK(labels.numel() == batch.rows,
             "recipe.column '{}' has several numbers an image; wanted one", options_.column);
    const auto largest = labels.max().item<int64_t>();
    FT_CHECK(largest < options_.classes || batch[options_.column].scalar_type() == torch::kByte,
             "recipe.classes is {}, but the column '{}' has the class {}", options_.classes,
             options_.column, largest);
    const auto scores = score(batch["image"]);
    const auto losses =
        at::cross_entropy_loss(scores, torch::where(has, labels, torch::zeros_like(labels)), {},
                               at::Reduction::None, -100, options_.label_smoothing);
    const auto weights = has.to(losses.scalar_type());
    StepOutput out;
    out.terms.push_back({"loss", (losses * weights).sum(), 1});
    const auto right = scores.detach().argmax(1).eq(labels).logical_and(has);
    out.metrics.add("accuracy", right.sum(), has.sum().item<double>());
    return out;
  }

  std::map<std::string, double> evaluate(std::span<const EvaluationSet> sets) override {
    const auto device = linear_->weight.device();
    return evaluate_sets(
        sets, [&](const torch::Tensor& images) { return score(images.to(device)); }, comm_);
  }

  Backbone& exported() override { return *backbone_; }

 private:
  torch::Tensor known(const Batch& batch) const {
    const auto& labels = batch[options_.column];
    return labels.scalar_type() == torch::kByte ? labels != kMissingByte : labels >= 0;
  }
  torch::Tensor score(const torch::Tensor& images) {
    auto x = embed(*backbone_, images, normalization_);
    if (norm_) x = norm_->forward(x);
    return to_full_precision(linear_->forward(x));
  }

  ClassificationOptions options_;
  Communicator& comm_;
  Normalization normalization_;
  std::shared_ptr<Backbone> backbone_;
  BatchNorm norm_{nullptr};
  Linear linear_{nullptr};
};

const bool registered = Recipes::get().add<Classification, ClassificationOptions>(
    "classification", "classes of a label column: fine-tuning, or a linear probe");

}  // namespace
}  // namespace facetrain
