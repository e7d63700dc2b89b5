// What the recipes that compare views of one image share: a trunk that is taken away, its
// evaluation, and the views that the transform `views` made: fields global.0, global.1, ...
// of one size, and local.0, ... of another (multi-crop).
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/projection_head.h"
#include "trainer/recipe.h"
#include "trainer/teacher.h"

namespace facetrain {

class ViewRecipe : public Recipe {
 public:
  std::vector<std::string> columns() const override { return {}; }
  std::map<std::string, double> evaluate(std::span<const EvaluationSet> sets) override;
  Backbone& exported() override { return *backbone_; }

 protected:
  // Makes the trunk that `model` says and registers it as `backbone`.
  explicit ViewRecipe(const RecipeContext& context);
  // A second one, for a teacher; it takes the student's values there.
  std::shared_ptr<Backbone> another_backbone() const;
  // Batch norms below `module` use all ranks' rows where model.batch_norm says so. Last, when all
  // modules are registered.
  void share_statistics();

  // "global.0"; and the names of a batch's local views, in order.
  static std::string global_view(int64_t number);
  static std::vector<std::string> local_views(const Batch& batch);
  // Throws unless the batch has `globals` global views (and says how to make them).
  void check_views(const Batch& batch, int64_t globals) const;
  // The field's images as the network takes them, [B, 3, S, S].
  torch::Tensor pixels(const Batch& batch, const std::string& field) const;
  // embedding [B, D] of a view, in a StepScope of the view's number: its drop path and dropout are
  // its own.
  torch::Tensor feature(Backbone& network, const Batch& batch, const std::string& field,
                        int64_t view) const;

  Communicator& comm_;
  uint64_t seed_;
  std::shared_ptr<Backbone> backbone_;

 private:
  Config model_;
  int64_t image_size_;
  Normalization normalization_;
};

// Where a rank's rows begin among those of all ranks.
int64_t first_row(const std::vector<int64_t>& counts, int rank);

// x / |x| along the last dimension.
torch::Tensor unit_rows(const torch::Tensor& x);

}  // namespace facetrain
