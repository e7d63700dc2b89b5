// `facetrain shards pack`: image files with labels become a set of shards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/shard_set.h"

namespace facetrain {

struct PackOptions {
  std::filesystem::path in;  // a folder with one sub-folder an identity, or a list file
  std::filesystem::path out;
  int64_t jobs = 1;
  int64_t shard_images = 0;         // at most; 0: any number
  int64_t shard_bytes = 128 << 20;  // of image files, after which a shard is closed
  bool allow_gaps = false;
  int64_t min_images = 1;  // of an identity
  std::function<void(int64_t done, int64_t total)> progress;
};

struct PackResult {
  ShardSetResult set;
  int64_t identities = 0;
  std::vector<std::string> warnings;
};

// JPEG and PNG files are stored byte for byte, PGM and PPM as PNG. Every image is decoded once: one
// that cannot be read is an error that names the file; so are labels without an image and
// identities with fewer than `min_images`, before anything is written. Identities with one image
// are a warning. Labels: `identity` (where the input has some) and `name`.
PackResult pack_set(const PackOptions& options);

}  // namespace facetrain
