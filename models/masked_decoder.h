// The decoder of masked autoencoders: visible tokens and mask tokens in, a prediction for every
// patch out. He et al. 2022, arXiv:2111.06377, section 3; MAE's names and initialisation.
#pragma once

#include <string>

#include "core/config.h"
#include "core/torch.h"
#include "models/masking.h"
#include "models/position_table.h"
#include "models/vit_block.h"

namespace facetrain {

struct MaskedDecoderOptions {
  int64_t width = 512, depth = 8, heads = 16;
  void fields(auto& f) {
    f("width", width, range(4, 65536), "of the decoder's tokens");
    f("depth", depth, range(1, 200), "blocks of the decoder");
    f("heads", heads, range(1, 128), "attention heads of the decoder");
  }
};

// Parameters `decoder_embed.*`, `mask_token` [1, 1, width], `decoder_pos_embed` (a buffer: fixed
// sines) [1, 1 + L, width], `decoder_blocks.N.*`, `decoder_norm.*`, `decoder_pred.*`.
class MaskedDecoder : public torch::nn::Module {
 public:
  // From tokens of `in` numbers to `out` numbers a patch of `grid`. `name`: where it is registered.
  MaskedDecoder(const MaskedDecoderOptions& options, int64_t in, int64_t out, Grid grid,
                uint64_t seed, const std::string& name);
  // tokens [B, 1 + K, in], the class token first, then the patches that `mask` keeps -> [B, L,
  // out].
  torch::Tensor forward(const torch::Tensor& tokens, const PatchMask& mask);

 private:
  Linear embed_, pred_;
  LayerNorm norm_;
  torch::Tensor mask_token_, positions_;
  VitBlocks blocks_{nullptr};
};

}  // namespace facetrain
