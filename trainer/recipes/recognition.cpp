// Face recognition by a sharded margin softmax. Deng et al. 2019, arXiv:1801.07698, eq. 3; An et
// al. 2022, arXiv:2203.15565.
#include <ATen/autocast_mode.h>

#include "losses/sharded_classifier.h"
#include "models/layers.h"
#include "trainer/comm_statistics.h"
#include "trainer/embedding_evaluation.h"
#include "trainer/recipe.h"

namespace facetrain {
namespace {

struct RecognitionOptions {
  void fields(auto&) {}
};

class Recognition : public Recipe {
 public:
  static constexpr const char* kSections[] = {"model", "loss", "classifier"};

  Recognition(const RecognitionOptions&, const RecipeContext& context)
      : comm_(context.comm),
        normalization_(context.normalization),
        backbone_(
            create_backbone(context.root.section("model"), {context.seed, context.image_size})) {
    if (backbone_->common().batch_norm == "sync")
      set_batch_norm_reducer(*backbone_, std::make_shared<CommStatistics>(context.comm));
    register_module("backbone", backbone_);
    const Config section = context.root.section("classifier");
    auto options = section.as<ClassifierOptions>();
    if (options.classes == 0) options.classes = context.identities;
    FT_CHECK(options.classes >= context.identities,
             "{}: classifier.classes is {}, but the training data has labels up to {}; set it to "
             "at least {} (0: as many as the data has)",
             section.place(), options.classes, context.identities - 1, context.identities);
    FT_CHECK(options.classes >= 2,
             "data.train: recognition wants at least two identities, found {}; pack a folder with "
             "one sub-folder an identity, or write folder:PATH",
             options.classes);
    classifier_ = std::make_shared<ShardedClassifier>(
        options, backbone_->dim(), Margins::get().create(context.root.section("loss")),
        context.comm, context.seed);
    register_module("classifier", classifier_);
  }

  void prepare(std::span<const Batch> batches, const Progress& at) override {
    std::vector<torch::Tensor> labels;
    for (const auto& batch : batches) labels.push_back(batch["identity"]);
    classifier_->begin_step(labels, at.step, at.total, at.steps_per_epoch);
  }

  StepOutput step(const Batch& batch, const Progress&) override {
    const auto embedding = for_classifier(embed(*backbone_, batch["image"], normalization_));
    const auto losses = classifier_->forward(embedding, batch["identity"], batch.position);
    StepOutput out;
    out.terms.push_back({"loss", losses.sum(), 1});
    out.metrics.add("target_cosine", classifier_->target_cosine(), 1);
    out.metrics.add("feature_norm", classifier_->feature_norm(), 1);
    return out;
  }

  std::map<std::string, double> evaluate(std::span<const EvaluationSet> sets) override {
    return evaluate_network(sets, *backbone_, normalization_, comm_);
  }

  Backbone& exported() override { return *backbone_; }

 private:
  // Networks end in fp32; under autocast the classifier multiplies in the narrow type and sums in
  // fp32.
  static torch::Tensor for_classifier(const torch::Tensor& embedding) {
    const auto device = embedding.device().type();
    return at::autocast::is_autocast_enabled(device)
               ? embedding.to(at::autocast::get_autocast_dtype(device))
               : embedding;
  }

  Communicator& comm_;
  Normalization normalization_;
  std::shared_ptr<Backbone> backbone_;
  std::shared_ptr<ShardedClassifier> classifier_;
};

const bool registered = Recipes::get().add<Recognition, RecognitionOptions>(
    "recognition", "face recognition: a backbone under a class-sharded margin softmax");

}  // namespace
}  // namespace facetrain
