// A trained network from whatever a user names: for eval, embed and export.
//
// Accepted: a run folder (its newest checkpoint), a checkpoint folder, RUN/best or RUN/latest, a
// file that `facetrain
// export --to safetensors` wrote, bare weights with public names (.safetensors, .pth) together with
// `model.name=... data.normalize=...`, or a TorchScript file (one of another program together with
// `data.size=... data.normalize=...`), whose own graph is then the network. Averaged weights are
// taken where a checkpoint has them.
#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <span>
#include <string>

#include "core/config.h"
#include "data/loader.h"
#include "data/source.h"
#include "eval/embedder.h"
#include "models/backbone.h"

namespace facetrain {

struct LoadedModel {
  std::shared_ptr<Backbone> backbone;  // fp32, in eval mode, on the device, wants no gradients
  Normalization normalization;
  ImageOptions images;   // the network's input size, and data.fit
  std::string describe;  // "run runs/a, step_000120000, averaged weights"
  std::string
      config;  // YAML of model, data.size, data.fit and data.normalize: enough to build it again
};

// `overrides` (section.key=value) change the stored configuration. Throws when `what` is none of
// the above, when a run has no checkpoint yet, and when weights and network do not fit.
LoadedModel load_model(const std::string& what, std::span<const std::string> overrides,
                       c10::Device device);

// Images as a source gives them to raw embeddings of the model.
EmbedFunction embed_function(const LoadedModel& model, c10::Device device);

}  // namespace facetrain
