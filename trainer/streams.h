// From the `data` and `eval.sets` sections to open sets: sources, order, transforms and loader of a
// stream.
#pragma once

#include <memory>
#include <vector>

#include "comm/communicator.h"
#include "core/config.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "data/source.h"
#include "trainer/recipe.h"

namespace facetrain {

// The sources, the order, the transforms and the threads of one stream.
struct Stream {
  std::vector<std::shared_ptr<const Source>> sets;
  std::shared_ptr<Sampler> sampler;
  std::unique_ptr<Loader> loader;
};

// Checks the items of `data.train` and of `eval.sets` and fills in their defaults; opens nothing.
void resolve_training_sets(const Config& section);
void resolve_evaluation_sets(const Config& section);

// Of the joined sets of `data.train`, before the size of images is known. **Collective**: throws
// when ranks see other data (counts, labels, first image of each set).
int64_t count_identities(const Config& data, Communicator& comm);
int64_t count_identities(const std::vector<std::shared_ptr<const Source>>& sets);

// `section`: `data`, or one of `data.streams`. Throws for no data, a batch larger than the set, and
// fewer rows than ranks.
Stream open_stream(const Config& section, const ImageOptions& images, uint64_t seed,
                   int64_t accumulate, Communicator& comm, const c10::Device& device);

// `section`: `eval.sets`.
std::vector<EvaluationSet> open_evaluation_sets(const Config& section, const ImageOptions& images);

}  // namespace facetrain
