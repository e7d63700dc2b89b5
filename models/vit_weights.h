// Files of vision transformers under other names than timm's.
#pragma once

#include <memory>

#include "core/weights_file.h"

namespace facetrain {

// CLIP's image tower (OpenAI's, FaRL's: `visual.transformer.resblocks.N.ln_1`, without the text
// tower and the projection behind the tower) and DINOv2's blocks in chunks (`blocks.0.N.`) under
// timm's names; any other file as it is. Tensors keep the shapes they have in the file.
std::unique_ptr<WeightsFile> translate_vit(std::unique_ptr<WeightsFile> file);

}  // namespace facetrain
