// MAE: a vision transformer sees a quarter of the patches, a small decoder draws the others. He et
// al. 2022, arXiv:2111.06377. FMAE (Ning et al. 2024, arXiv:2407.11243) is the same on faces.
#include "losses/reconstruction.h"
#include "models/masked_decoder.h"
#include "models/vit.h"
#include "trainer/embedding_evaluation.h"
#include "trainer/recipe.h"

namespace facetrain {
namespace {

struct MaeOptions {
  double mask_ratio = 0.75;
  bool normalise_pixels = true;
  MaskedDecoderOptions decoder;
  void fields(auto& f) {
    f("mask_ratio", mask_ratio, range(0, 1), "share of the patches that are removed");
    f("normalise_pixels", normalise_pixels, "targets by each patch's own mean and deviation");
    f("decoder", decoder, "what draws the removed patches; not part of what is exported");
  }
};

class Mae : public Recipe {
 public:
  static constexpr const char* kSections[] = {"model"};

  Mae(const MaeOptions& options, const RecipeContext& context)
      : options_(options), comm_(context.comm), normalization_(context.normalization) {
    const Config model = context.root.section("model");
    vit_ =
        std::dynamic_pointer_cast<Vit>(create_backbone(model, {context.seed, context.image_size}));
    FT_CHECK(vit_, "{}: mae wants a vision transformer (vit_small_patch16_224, ...), found '{}'",
             model.place(), model.name());
    FT_CHECK(vit_->options().pool != "mean",
             "{}: mae wants the norm behind the blocks, which pool: mean has not; set "
             "model.pool=token, and pool: mean when fine-tuning",
             model.place());
    register_module("backbone", vit_);
    decoder_ = register_module(
        "decoder", std::make_shared<MaskedDecoder>(options.decoder, vit_->width(),
                                                   3 * vit_->patch() * vit_->patch(), vit_->grid(),
                                                   context.seed, "decoder"));
  }

  std::vector<std::string> columns() const override { return {}; }

  StepOutput step(const Batch& batch, const Progress&) override {
    const auto images =
        normalise(batch["image"], normalization_, vit_->parameters().front().scalar_type());
    const PatchMask mask = random_mask(vit_->grid().cells(), options_.mask_ratio, "mae.mask");
    const auto drawn = decoder_->forward(vit_->encode(vit_->embed(images), mask.kept), mask);
    auto target = patches_of(images, vit_->patch());
    if (options_.normalise_pixels) target = normalise_patches(target);
    StepOutput out;
    out.terms.push_back({"loss", masked_error(drawn, target, mask.removed).sum(), 1});
    return out;
  }

  std::map<std::string, double> evaluate(std::span<const EvaluationSet> sets) override {
    return evaluate_network(sets, *vit_, normalization_, comm_);
  }

  Backbone& exported() override { return *vit_; }

 private:
  MaeOptions options_;
  Communicator& comm_;
  Normalization normalization_;
  std::shared_ptr<Vit> vit_;
  std::shared_ptr<MaskedDecoder> decoder_;
};

const bool registered = Recipes::get().add<Mae, MaeOptions>(
    "mae", "self-supervised: masked autoencoder of a vision transformer (no labels)");

}  // namespace
}  // namespace facetrain
