// What happens to a decoded sample on the worker thread. Randomness comes from the key only.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

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

// With their names, in the order of the list.
using TransformList = std::vector<std::pair<std::string, std::shared_ptr<const Transform>>>;

// A list of the configuration, `[{name: .., ..}, ..]`: checked and filled with defaults, or made.
void resolve_transforms(const Config& list);
TransformList make_transforms(const Config& list);

}  // namespace facetrain
