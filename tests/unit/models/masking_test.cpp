// Masks: exact counts, restoring the order, even draws, the same whatever the batch; and the
// decoder that fills the removed patches in.
#include "models/masking.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/step_context.h"
#include "models/masked_decoder.h"
#include "models/vit.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {

using torch::Tensor;

StepContext at_positions(const Tensor& positions, int64_t view = 0) {
  StepContext context;
  context.seed = 3;
  context.total_steps = 10;
  context.view = view;
  context.positions = positions;
  return context;
}

TEST(RandomMask, KeepsAnExactShareAndRestoresTheOrder) {
  const StepScope scope(at_positions(torch::arange(200)));
  for (const auto& [patches, ratio, kept] : std::vector<std::tuple<int64_t, double, int64_t>>{
           {196, 0.75, 49}, {64, 0.75, 16}, {49, 0.6, 19}, {10, 0.9, 1}, {10, 0.1, 9}}) {
    const PatchMask mask = random_mask(patches, ratio, "mask");
    EXPECT_EQ(mask.kept.size(1), kept);
    EXPECT_TRUE(mask.removed.sum(1).eq(patches - kept).all().item<bool>());
    // restore is the inverse of (kept, removed): what is kept stands at places 0 ... K - 1.
    EXPECT_TRUE(
        torch::equal(mask.restore.gather(1, mask.kept), torch::arange(kept).expand({200, kept})));
    EXPECT_TRUE(torch::equal(std::get<0>(mask.restore.sort(1)),
                             torch::arange(patches).expand({200, patches})));
    EXPECT_FALSE(mask.removed.gather(1, mask.kept).any().item<bool>());
    // Every patch is removed about equally often.
    const double share = static_cast<double>(patches - kept) / static_cast<double>(patches);
    EXPECT_LE((mask.removed.to(torch::kDouble).mean(0) - share).abs().max().item<double>(), 0.16);
  }
}

TEST(RandomMask, IsAFunctionOfThePosition) {
  PatchMask whole, part, other_view;
  {
    const StepScope scope(at_positions(torch::arange(8)));
    whole = random_mask(36, 0.5, "mask");
  }
  {
    const StepScope scope(at_positions(torch::arange(3, 6)));
    part = random_mask(36, 0.5, "mask");
    EXPECT_FALSE(torch::equal(random_mask(36, 0.5, "another").kept, part.kept));
  }
  {
    const StepScope scope(at_positions(torch::arange(8), 1));
    other_view = random_mask(36, 0.5, "mask");
  }
  EXPECT_TRUE(torch::equal(part.kept, whole.kept.slice(0, 3, 6)));
  EXPECT_FALSE(torch::equal(other_view.kept, whole.kept));
}

TEST(RandomMask, MustLeaveSomethingOnBothSides) {
  const StepScope scope(at_positions(torch::arange(2)));
  expect_error([] { random_mask(9, 0.95, "mask"); }, {"leaves 0 of 9 patches", "mask_ratio"});
  expect_error([] { random_mask(9, 0, "mask"); }, {"leaves 9 of 9 patches"});
}

TEST(MaskedDecoder, PutsPatchesBackWhereTheyCameFrom) {
  const StepScope scope(at_positions(torch::arange(2)));
  MaskedDecoder decoder({16, 1, 4}, 12, 5, {3, 3}, 1, "decoder");
  decoder.to(torch::kDouble);
  const auto number = torch::arange(2 * 9 * 12, torch::kDouble).view({2, 9, 12}).mul(0.37).sin();
  const auto token = torch::ones({2, 1, 12}, torch::kDouble);
  const PatchMask mask = random_mask(9, 0.5, "mask");
  const auto seen = torch::cat({token, take_tokens(number, mask.kept)}, 1);
  const auto found = decoder.forward(seen, mask);
  ASSERT_EQ(found.sizes(), (std::vector<int64_t>{2, 9, 5}));
  // The same patches in another order give the same picture.
  const auto turned = torch::arange(mask.kept.size(1) - 1, -1, -1);
  PatchMask other = mask;
  other.kept = mask.kept.index_select(1, turned);
  const auto order =
      torch::cat({other.kept, std::get<1>(mask.restore.sort(1)).slice(1, mask.kept.size(1))}, 1);
  other.restore = order.argsort(int64_t{1});
  const auto again =
      decoder.forward(torch::cat({token, take_tokens(number, other.kept)}, 1), other);
  EXPECT_LE((again - found).abs().max().item<double>(), 1e-12);
  // MAE's names; the table is fixed.
  std::set<std::string> names;
  for (const auto& item : decoder.named_parameters()) names.insert(item.key());
  for (const char* name : {"mask_token", "decoder_embed.weight", "decoder_blocks.0.attn.qkv.bias",
                           "decoder_norm.weight", "decoder_pred.bias"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_FALSE(names.contains("decoder_pos_embed"));
  expect_error([] { MaskedDecoder({10, 1, 4}, 12, 5, {3, 3}, 1, "d"); }, {"4 heads for width 10"});
}

// A face-like map of 11 classes: rectangles of regions, moved about by the sample.
Tensor face_classes(int64_t samples, int64_t size) {
  Tensor classes = torch::zeros({samples, size, size}, torch::kByte);
  for (int64_t b = 0; b < samples; ++b) {
    const auto paint = [&](double top, double left, double height, double width, int value) {
      const auto at = [&](double x) {
        return std::clamp<int64_t>(
            std::lround(x * static_cast<double>(size)) + (b * 7 + value * 3) % 9 - 4, 0, size);
      };
      classes[b]
          .slice(0, at(top), at(top + height))
          .slice(1, at(left), at(left + width))
          .fill_(value);
    };
    paint(0.1, 0.15, 0.3, 0.7, 10);
    paint(0.25, 0.2, 0.6, 0.6, 1);
    paint(0.33, 0.25, 0.05, 0.2, 2);
    paint(0.33, 0.55, 0.05, 0.2, 3);
    paint(0.42, 0.27, 0.07, 0.15, 4);
    paint(0.42, 0.57, 0.07, 0.15, 5);
    paint(0.45, 0.44, 0.18, 0.12, 6);
    paint(0.7, 0.36, 0.1, 0.28, 7 + static_cast<int>(b % 3));
  }
  return classes;
}

// Groups of a patch by plain loops over its pixels, in the order of the list.
std::vector<int> groups_by_loops(const Tensor& map, int64_t y, int64_t x, int64_t patch) {
  bool has[11] = {};
  for (int64_t i = 0; i < patch; ++i)
    for (int64_t j = 0; j < patch; ++j)
      has[map[y * patch + i][x * patch + j].item<int64_t>()] = true;
  std::vector<int> groups;
  const bool in[8] = {has[2] || has[3],
                      has[4] || has[5],
                      has[6],
                      has[7] || has[8] || has[9],
                      has[1] && (has[10] || has[0]),
                      has[10],
                      has[1],
                      has[0]};
  for (int g = 0; g < 8; ++g)
    if (in[g]) groups.push_back(g);
  return groups;
}

TEST(RegionMask, CoversARegionAndTakesItsShareOfTheOthers) {
  constexpr int64_t kSamples = 60, kSize = 112, kPatch = 8, kSide = 14, kPatches = 196,
                    kCount = 147;
  const Tensor classes = face_classes(kSamples, kSize);
  const StepScope scope(at_positions(torch::arange(kSamples)));
  const RegionMask found = region_mask(classes, kPatch, 0.75, false, "mask");
  EXPECT_TRUE(found.mask.removed.sum(1).eq(kCount).all().item<bool>());
  std::set<int> drawn_groups;
  for (int64_t b = 0; b < kSamples; ++b) {
    std::vector<std::vector<int>> groups;
    for (int64_t y = 0; y < kSide; ++y)
      for (int64_t x = 0; x < kSide; ++x)
        groups.push_back(groups_by_loops(classes[b], y, x, kPatch));
    const auto in = [&](int64_t patch, int g) {
      return std::find(groups[patch].begin(), groups[patch].end(), g) != groups[patch].end();
    };
    const auto removed = [&](int64_t patch) { return found.mask.removed[b][patch].item<bool>(); };
    // The drawn group is one of the first six whose patches are the region.
    int drawn = -1;
    for (int g = 0; g < 6 && drawn < 0; ++g) {
      bool is = true;
      for (int64_t p = 0; p < kPatches && is; ++p) is = found.region[b][p].item<bool>() == in(p, g);
      if (is) drawn = g;
    }
    ASSERT_GE(drawn, 0) << "sample " << b;
    drawn_groups.insert(drawn);
    int64_t covered = 0;
    for (int64_t p = 0; p < kPatches; ++p) covered += in(p, drawn);
    ASSERT_LT(covered, kCount);
    const double share =
        static_cast<double>(kCount - covered) / static_cast<double>(kPatches - covered);
    // Of each other group: round(share * its unclaimed patches), up to what the repair moved.
    int64_t sum = covered, moved = 0;
    for (int g = 0; g < 8; ++g) {
      int64_t size = 0, taken = 0;
      for (int64_t p = 0; p < kPatches; ++p)
        if (!in(p, drawn) && groups[p].front() == g) ++size, taken += removed(p);
      const auto wanted = static_cast<int64_t>(std::nearbyint(share * static_cast<double>(size)));
      sum += wanted;
      moved += std::abs(taken - wanted);
    }
    EXPECT_EQ(moved, std::abs(sum - kCount)) << "only what rounding left over is repaired";
  }
  EXPECT_EQ(drawn_groups, (std::set<int>{0, 1, 2, 3, 4, 5}));
}

TEST(RegionMask, ALargeRegionFillsTheCountAlone) {
  const Tensor hair = torch::full({40, 112, 112}, 10, torch::kByte);
  const StepScope scope(at_positions(torch::arange(40)));
  const RegionMask found = region_mask(hair, 8, 0.75, false, "mask");
  EXPECT_TRUE(found.mask.removed.sum(1).eq(147).all().item<bool>());
  const Tensor hit = found.region.sum(1);  // hair is drawn for some samples
  EXPECT_TRUE((hit.eq(147) | hit.eq(0)).all().item<bool>());
  EXPECT_TRUE(hit.eq(147).any().item<bool>());
  EXPECT_TRUE(hit.eq(0).any().item<bool>());
  // Classes that no group knows count as no region, and the count is exact all the same.
  const RegionMask unknown =
      region_mask(torch::full({40, 112, 112}, 255, torch::kByte), 8, 0.75, true, "mask");
  EXPECT_TRUE(unknown.mask.removed.sum(1).eq(147).all().item<bool>());
}

TEST(RegionMask, OneDrawAStepOrOneASample) {
  const Tensor classes = face_classes(16, 112);
  const StepScope scope(at_positions(torch::arange(16)));
  const auto drawn = [&](bool per_step) {
    const Tensor region = region_mask(classes, 8, 0.75, per_step, "mask").region;
    return std::get<0>(torch::_unique(region.sum(1))).size(0);
  };
  EXPECT_GT(drawn(false), drawn(true));
  expect_error([&] { region_mask(classes.slice(1, 0, 100), 8, 0.75, false, "mask"); },
               {"100 x 112 pixels for patches of 8"});
}

}  // namespace
}  // namespace facetrain
