// Which patches of an image a network does not see. Made on the device of the samples' positions,
// and a function of (seed, position, name) only: the same at any world size and after any resume.
#pragma once

#include <string>
#include <string_view>

#include "core/torch.h"

namespace facetrain {

struct PatchMask {
  torch::Tensor kept;     // [B, K] int64: patches that are seen, in the order of the draw
  torch::Tensor restore;  // [B, L] int64: place of each patch among kept, then removed ones
  torch::Tensor removed;  // [B, L] bool; the same number in every row
};

// int(L (1 - ratio)) of L patches stay, drawn evenly (MAE, He et al. 2022, arXiv:2111.06377,
// section 3). Wants a StepScope with positions. Throws when no patch, or every patch, would stay.
PatchMask random_mask(int64_t patches, double ratio, std::string_view name);

// FSFM's CRFR-P (Wang et al. 2025, arXiv:2412.12032, section 3.2): one facial region is covered
// whole, and as large a share of every other region as is left of the count.
struct RegionMask {
  PatchMask mask;
  torch::Tensor region;  // [B, L] bool: the removed patches of the drawn region
};

// Exactly round(L ratio) of L patches of `patch` pixels are removed. classes [B, H, W] uint8: the
// eleven LaPa classes of the column `mask`; other values belong to no region. A patch belongs to
// every class that one of its pixels has. Of the eight groups (brows, eyes, nose, mouth, boundary
// of skin, hair, skin, background; a patch counts for the first that it belongs to) one of the
// first six is drawn for each sample, or for all samples of a step (`per_step`: near to what is
// released, which draws for each batch of a rank). Where the region is larger than the count, a
// random part of it is removed and nothing else.
RegionMask region_mask(const torch::Tensor& classes, int64_t patch, double ratio, bool per_step,
                       const std::string& name);

// The mask whose removed patches are the `count` largest of each row of `keys` [B, L], which are
// all different or fall in the order of the patches; kept ones come in ascending order of keys.
PatchMask mask_of_keys(const torch::Tensor& keys, int64_t count);

}  // namespace facetrain
