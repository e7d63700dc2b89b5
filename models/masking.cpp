#include "models/masking.h"

#include <cmath>

#include "core/check.h"
#include "core/step_context.h"

namespace facetrain {

PatchMask mask_of_keys(const torch::Tensor& keys, int64_t count) {
  const int64_t patches = keys.size(1), stay = patches - count;
  FT_CHECK(stay > 0 && count > 0,
           "a mask that leaves {} of {} patches: wanted at least one seen and one removed; choose "
           "another mask_ratio, smaller patches or larger images",
           stay, patches);
  const auto order = torch::argsort(keys, /*stable=*/true, /*dim=*/1, /*descending=*/false);
  const auto restore = torch::argsort(order, /*stable=*/true, 1, false);
  return {order.narrow(1, 0, stay).contiguous(), restore, restore >= stay};
}

PatchMask random_mask(int64_t patches, double ratio, std::string_view name) {
  const auto stay = static_cast<int64_t>(static_cast<double>(patches) * (1 - ratio) + 1e-9);
  return mask_of_keys(sample_uniform(patches, name), patches - stay);
}

namespace {

constexpr int64_t kDrawnGroups = 6;

// Membership of the patches in the eight groups, [B, 8, L] bool.
torch::Tensor groups_of(const torch::Tensor& classes, int64_t patch) {
  const int64_t batch = classes.size(0), rows = classes.size(1) / patch,
                columns = classes.size(2) / patch;
  const auto pixels = classes.reshape({batch, rows, patch, columns, patch})
                          .permute({0, 1, 3, 2, 4})
                          .reshape({batch, rows * columns, patch * patch});
  const auto has = [&](std::initializer_list<int64_t> wanted) {
    torch::Tensor any;
    for (const int64_t c : wanted) any = any.defined() ? any | (pixels == c) : pixels == c;
    return any.any(-1);
  };
  const auto skin = has({1}), hair = has({10}), background = has({0});
  return torch::stack({has({2, 3}), has({4, 5}), has({6}), has({7, 8, 9}),
                       skin & (hair | background), hair, skin, background},
                      1);
}

// The place of each key among the keys of its row that have the same owner, [B, L].
torch::Tensor places_among(const torch::Tensor& keys, const torch::Tensor& owner) {
  // Owners are whole numbers and keys below 1: sorting the sum sorts by owner, then by key.
  const auto order = torch::argsort(owner.to(torch::kDouble) + keys, true, 1, false);
  const auto place = torch::argsort(order, true, 1, false);
  const auto sizes = torch::one_hot(owner, kDrawnGroups + 3).sum(1);
  const auto before = sizes.cumsum(1) - sizes;
  return place - before.gather(1, owner);
}

}  // namespace

RegionMask region_mask(const torch::Tensor& classes, int64_t patch, double ratio, bool per_step,
                       const std::string& name) {
  FT_CHECK(classes.dim() == 3 && classes.size(1) % patch == 0 && classes.size(2) % patch == 0,
           "a region mask of {} x {} pixels for patches of {}: wanted one of the image's size",
           classes.size(1), classes.size(2), patch);
  const auto groups = groups_of(classes, patch);
  const int64_t batch = groups.size(0), patches = groups.size(2);
  const auto count = static_cast<int64_t>(std::nearbyint(static_cast<double>(patches) * ratio));
  const auto drawn =
      per_step ? step_uniform(1, name + ".region", classes.device()).view({1, 1}).expand({batch, 1})
               : sample_uniform(1, name + ".region");
  const auto group = (drawn * kDrawnGroups).floor().to(torch::kLong);  // [B, 1]
  const auto region = groups.gather(1, group.unsqueeze(2).expand({batch, 1, patches})).squeeze(1);

  // Every other patch belongs to the first group that has it; 8 to none, 6 + 2 to the region.
  const auto rest = groups & ~region.unsqueeze(1);
  const auto none = torch::ones({batch, 1, patches}, rest.options());
  const auto owner = torch::cat({rest, none}, 1).to(torch::kInt8).argmax(1);  // [B, L], 0 ... 8
  const auto own = torch::where(region, torch::full_like(owner, 8), owner);

  const auto covered = region.sum(1, true).to(torch::kDouble);
  const auto share =
      ((count - covered) / (patches - covered).clamp_min(1)).clamp(0, 1);  // of every other group
  const auto sizes = torch::one_hot(own, 9).sum(1).to(torch::kDouble);
  const auto wanted = (sizes * share).round().gather(1, own);
  const auto place = places_among(sample_uniform(patches, name + ".share"), own);
  const auto chosen = (place < wanted) & (own < 8);

  // The region first, then what was chosen, then the rest: the first `count` of a random order of
  // each repair what rounding left over.
  const auto level = torch::where(region, 3.0, torch::where(chosen, 2.0, 1.0));
  const auto mask =
      mask_of_keys(level - sample_uniform(patches, name + ".repair").to(torch::kDouble), count);
  return {mask, region & mask.removed};
}

}  // namespace facetrain
