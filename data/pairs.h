// Verification pairs of a set with a fixed number of images an identity, and their file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace facetrain {

struct Pair {
  int64_t fold, i, j;  // i, j: indexes into the set's order
  bool same;
};

// Pairs of the images identity * images + image of `identities` people, cut into `folds` folds that
// share no person (fewer when there are not two people for each). `wanted` pairs in all, half of
// one person and half of two, as many of each in every fold; fewer where the set is too small; none
// twice. A function of the arguments.
std::vector<Pair> make_pairs(int64_t identities, int64_t images, int64_t folds, int64_t wanted,
                             uint64_t seed);

// CSV with the header `fold,i,j,same` (same: 1 or 0), written under a temporary name and renamed.
void write_pairs(const std::filesystem::path& file, const std::vector<Pair>& pairs);

}  // namespace facetrain
