// What happens to a decoded sample on the worker thread. Randomness comes from the key only.
#pragma once

#include "core/registry.h"
#include "data/batch.h"

namespace facetrain {

class Transform {
 public:
  static constexpr const char* kKind = "transform";
  virtual ~Transform() = default;
  // `key` is made of (seed, sample position, transform name): the same on any thread, rank and
  // resume.
  virtual void apply(Sample& sample, uint64_t key) const = 0;
};
using Transforms = Registry<Transform>;

}  // namespace facetrain
