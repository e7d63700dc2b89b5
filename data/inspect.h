// `facetrain shards info` and `verify`: what a set holds, and whether all of it can be read.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "data/source.h"

namespace facetrain {

struct SetInfo {
  std::string name;
  int64_t images = 0, shards = 0, file_bytes = 0, image_bytes = 0;
  std::vector<Column> columns;                   // text columns included
  std::vector<int64_t> present;                  // records that have each column
  std::map<std::pair<int, int>, int64_t> sizes;  // (width, height) -> images, of those probed
  std::map<std::string, int64_t> formats;        // "jpeg", "png" -> images, of those probed
  int64_t probed = 0;                            // images whose headers were read
  IdentityCounts identities;
  std::vector<std::vector<std::string>> examples;  // rows of text: index, bytes, size, one a column
};

// Reads the headers of at most `probe` images, spread evenly. Throws where the set cannot be
// opened.
SetInfo inspect_set(const std::filesystem::path& path, int64_t probe = 20000, int64_t examples = 3);

struct VerifyResult {
  int64_t shards = 0, images = 0;
  std::vector<std::string> failures;  // each names shard and sample
};

// Every shard opens, is complete in its folder, and its content has the checksum that it was
// written with; every image has its own checksum and decodes, every mask decodes. Goes on after a
// failure. `jobs` threads, one shard each.
VerifyResult verify_set(const std::filesystem::path& path, int64_t jobs,
                        const std::function<void(int64_t done, int64_t total)>& progress = {});

}  // namespace facetrain
