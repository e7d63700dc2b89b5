#include "trainer/view_recipe.h"

#include <numeric>

#include "core/step_context.h"
#include "trainer/comm_statistics.h"
#include "trainer/embedding_evaluation.h"

namespace facetrain {

ViewRecipe::ViewRecipe(const RecipeContext& context)
    : comm_(context.comm),
      seed_(context.seed),
      model_(context.root.section("model")),
      image_size_(context.image_size),
      normalization_(context.normalization) {
  backbone_ = create_backbone(model_, {seed_, image_size_});
  register_module("backbone", backbone_);
}

std::shared_ptr<Backbone> ViewRecipe::another_backbone() const {
  return create_backbone(model_, {seed_, image_size_});
}

void ViewRecipe::share_statistics() {
  if (backbone_->common().batch_norm != "sync") return;
  const auto reducer = std::make_shared<CommStatistics>(comm_);
  for (const auto& child : children()) set_batch_norm_reducer(*child, reducer);
}

std::map<std::string, double> ViewRecipe::evaluate(std::span<const EvaluationSet> sets) {
  return evaluate_network(sets, *backbone_, normalization_, comm_);
}

std::string ViewRecipe::global_view(int64_t number) { return fmt::format("global.{}", number); }

std::vector<std::string> ViewRecipe::local_views(const Batch& batch) {
  std::vector<std::string> names;
  for (int64_t view = 0; batch.has(fmt::format("local.{}", view)); ++view)
    names.push_back(fmt::format("local.{}", view));
  return names;
}

void ViewRecipe::check_views(const Batch& batch, int64_t globals) const {
  for (int64_t view = 0; view < globals; ++view)
    FT_CHECK(batch.has(global_view(view)),
             "this recipe compares views and wants {} fields global.0, ... in a batch; found no "
             "global.{}. Make them of each image: data.transforms=[{{name: views, views: [{{field: "
             "global, count: {}, transforms: [{{name: resized_crop}}, {{name: flip}}]}}]}}]",
             globals, view, globals);
}

torch::Tensor ViewRecipe::pixels(const Batch& batch, const std::string& field) const {
  return normalise(batch[field], normalization_, backbone_->parameters().front().scalar_type());
}

torch::Tensor ViewRecipe::feature(Backbone& network, const Batch& batch, const std::string& field,
                                  int64_t view) const {
  StepContext context = step_context();
  context.view = view;
  const StepScope scope(context);
  return network.forward(pixels(batch, field)).embedding;
}

int64_t first_row(const std::vector<int64_t>& counts, int rank) {
  return std::accumulate(counts.begin(), counts.begin() + rank, int64_t{0});
}

torch::Tensor unit_rows(const torch::Tensor& x) {
  return x / x.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-12);
}

}  // namespace facetrain
