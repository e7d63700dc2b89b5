// Bytes at an index: what a data set is to the loader. Immutable, random access, any thread.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/registry.h"
#include "data/batch.h"
#include "data/column.h"

namespace facetrain {

// How images of a set are brought to one size, and which labels come with them.
struct ImageOptions {
  int64_t size = 0;           // pixels, square; 0: as stored
  std::string fit = "error";  // resize (each axis by itself) | crop (the centre) | error, when the
                              // stored size differs
  // Label columns that samples carry; absent: all. Masks cost as much to decode as images: name
  // what the run uses.
  std::optional<std::vector<std::string>> columns;
};

class Source {
 public:
  static constexpr const char* kKind = "source";
  virtual ~Source() = default;
  virtual int64_t size() const = 0;
  // Decoded image, identity and the other columns of one sample. Throws an Error that names set,
  // shard and sample.
  virtual Sample read(int64_t index) const = 0;
  // The same; the image may be decoded straight into `room` (uint8 [H, W, 3]) where that has its
  // size, and is then it.
  virtual Sample read_into(int64_t index, const at::Tensor& room) const {
    static_cast<void>(room);
    return read(index);
  }
  // The fields that samples carry beside the image. A column that is not `complete` is absent from
  // some samples.
  virtual std::vector<Column> columns() const { return {}; }
  // The identity without decoding, or -1 where the set has none.
  virtual int64_t identity(int64_t index) const = 0;
  // Number of classes: largest identity + 1; 0 without identities.
  virtual int64_t identities() const = 0;
  // For errors and the banner: "sets/a/synth-00003.h5, sample 17".
  virtual std::string describe(int64_t index) const = 0;
  virtual std::string name() const = 0;
  // Path of the image below the folder that it came from, where that is known; of other packed
  // images SHARDFILE#ROW ("mine-00003.h5#17").
  virtual std::string key(int64_t index) const { return describe(index); }
};
using Sources =
    Registry<Source, const ImageOptions&>;  // shards | folder | list | images; option `path`

// Opens `data.train`, an evaluation set, or a path of the command line: a folder of shards (*.h5)
// or one shard, `folder:PATH` (a folder per identity), `list:FILE` (lines `path<TAB>label`),
// `images:PATH` (every image below, no identities).
std::shared_ptr<const Source> open_source(const std::string& where, const ImageOptions& options);

// An error of read() as training says it: with what can be done about a damaged sample.
std::string training_error(const Error& error);

// How many images each identity of a set has.
struct IdentityCounts {
  std::vector<int64_t> images;  // of identity 0, 1, ...
  std::vector<int64_t> gaps;    // identities below the largest that have none
  int64_t unlabelled = 0;       // images without identity
  int64_t smallest = 0, median = 0, largest = 0,
          single = 0;  // over identities with images; single: with one image
};
IdentityCounts count_identities(const Source& source);
// "3, 7, 9 ... (12 in all)", the first ten at most: for messages about label gaps.
std::string list_some(std::span<const int64_t> first, int64_t in_all);

}  // namespace facetrain
