// What `facetrain export --card` can find out about a model: from the run that it came from, as far
// as its files are there.
#pragma once

#include <filesystem>

#include "export/model_card.h"

namespace facetrain {

// Fills in training data, configuration and figures of the run or checkpoint that `what` names: the
// last evaluation up to the checkpoint's step, with intervals where the pair lists can be read. For
// anything else it says that they are not known.
void describe_training(const std::filesystem::path& what, ModelCard& card);

}  // namespace facetrain
