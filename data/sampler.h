// Which index at which position of the global stream: a pure function of (seed, position), never a
// state.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/random.h"
#include "core/registry.h"
#include "data/source.h"

namespace facetrain {

struct Draw {
  int64_t set;    // which of the joined sets
  int64_t index;  // in that set
};

class Sampler {
 public:
  static constexpr const char* kKind = "sampler";
  virtual ~Sampler() = default;
  // The sample at a position >= 0 of the endless stream.
  virtual Draw at(int64_t position) const = 0;
  // The `attempt`-th (>= 1) replacement of a sample that cannot be read: the next readable index of
  // the same permutation.
  virtual Draw replacement(int64_t position, int64_t attempt) const = 0;
  // Positions of one epoch: the stated length of the (joined) set.
  virtual int64_t epoch_size() const = 0;
};

// What a sampler draws from: the joined sets with their weights (share of samples of the stream;
// empty: by size).
struct SamplerInput {
  std::vector<std::shared_ptr<const Source>> sets;
  std::vector<double> weights;
  uint64_t seed = 0;
  int64_t batch_size = 0;  // global batch of one step
};
using Samplers = Registry<Sampler, const SamplerInput&>;  // shuffle | sequential | balanced (P x K)

}  // namespace facetrain
