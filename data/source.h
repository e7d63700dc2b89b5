// Bytes at an index: what a data set is to the loader. Immutable, random access, any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/registry.h"
#include "data/batch.h"

namespace facetrain {

// How images of a set are brought to one size.
struct ImageOptions {
  int64_t size = 0;           // pixels, square; 0: as stored
  std::string fit = "error";  // resize | crop | error, when the stored size differs
};

class Source {
 public:
  static constexpr const char* kKind = "source";
  virtual ~Source() = default;
  virtual int64_t size() const = 0;
  // Decoded image, identity and the other columns of one sample. Throws an Error that names set, shard and sample.
  virtual Sample read(int64_t index) const = 0;
  // The identity without decoding, or -1 where the set has none.
  virtual int64_t identity(int64_t index) const = 0;
  // Number of classes: largest identity + 1; 0 without identities.
  virtual int64_t identities() const = 0;
  // For errors and the banner: "sets/a/synth-00003.h5, sample 17".
  virtual std::string describe(int64_t index) const = 0;
  virtual std::string name() const = 0;
};

// Opens `data.train`, an evaluation set, or a path of the command line: a folder of shards (*.h5) or one shard,
// `folder:PATH` (a folder per identity), `list:FILE` (lines `path<TAB>label`).
std::shared_ptr<const Source> open_source(const std::string& where, const ImageOptions& options);

}  // namespace facetrain
