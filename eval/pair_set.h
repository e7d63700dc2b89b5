// Images and a pair list brought together: what the verification protocol runs on.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "data/source.h"
#include "eval/pairs.h"

namespace facetrain {

struct PairSet {
  std::shared_ptr<const Source> source;  // only the images that a pair uses
  PairList pairs;                        // rows of `source`
};

// `images`: a folder of images or of shards, one shard, or anything else that open_source takes.
// `pairs`: either form of eval/pairs.h; CSV names rows of the whole set, LFW's form names images by
// their path below the folder (which shards keep when they were packed). Throws naming the first
// image that is not there.
PairSet open_pair_set(const std::string& images, const std::filesystem::path& pairs,
                      const ImageOptions& options);

// What open_source wants for a path of the command line: a folder without shards is `images:PATH`.
std::string source_of_path(const std::string& path);

}  // namespace facetrain
