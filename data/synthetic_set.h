// `facetrain shards synth`: a set of rendered faces with every label column, its test split and the
// pairs of that.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "data/shard_set.h"

namespace facetrain {

struct SyntheticSetOptions {
  std::filesystem::path out;  // shards directly in it; the test split goes to `<out>-test`
  int64_t identities = 0, images = 0;
  uint64_t seed = 1;
  int64_t size = 112;             // pixels, square
  int64_t test_identities = 200;  // 0: no test split
  int64_t test_images = 0;        // of each; 0: as many as `images`, at most 20
  int64_t jobs = 1;
  int64_t shard_images = 1000;
  std::function<void(int64_t done, int64_t total)> progress;  // of each split by itself
};

struct SyntheticSetResult {
  ShardSetResult train, test;
  int64_t pairs = 0;
  std::filesystem::path test_folder;
};

// Exactly identities * images JPEGs, labels 0 ... identities - 1, image m of identity n at index n
// * images + m. The test split has other people (renderer's identities from `identities` on,
// labelled from 0) and `pairs.csv`: 10 folds without a common person, 6,000 pairs or fewer. A
// function of the options, whatever `jobs`.
SyntheticSetResult write_synthetic_set(const SyntheticSetOptions& options);

// The label columns of a rendered face, with their class names.
std::vector<Column> synthetic_columns();

}  // namespace facetrain
