#include "models/masked_decoder.h"

#include "core/check.h"
#include "models/init_weights.h"
#include "models/vit.h"

namespace facetrain {

MaskedDecoder::MaskedDecoder(const MaskedDecoderOptions& options, int64_t in, int64_t out,
                             Grid grid, uint64_t seed, const std::string& name)
    : embed_(in, options.width), pred_(options.width, out), norm_(options.width) {
  FT_CHECK(options.width % options.heads == 0,
           "decoder: wanted heads that divide its width, found {} heads for width {}",
           options.heads, options.width);
  register_module("decoder_embed", embed_);
  mask_token_ = register_parameter("mask_token", torch::zeros({1, 1, options.width}));
  positions_ = register_buffer(
      "decoder_pos_embed", torch::cat({torch::zeros({1, options.width}),
                                       sincos_positions(options.width, grid.height, grid.width)})
                               .unsqueeze(0));
  blocks_ = register_module("decoder_blocks", VitBlocks(VitBlockShape{options.width, options.heads},
                                                        options.depth, false));
  register_module("decoder_norm", norm_);
  register_module("decoder_pred", pred_);
  for (const auto& item : named_parameters()) {
    const std::string full = name + "." + item.key();
    if (item.key() == "mask_token") init_normal(item.value(), seed, full, 0, 0.02);
    if (item.value().dim() == 2) init_xavier_uniform(item.value(), seed, full);
  }
}

torch::Tensor MaskedDecoder::forward(const torch::Tensor& tokens, const PatchMask& mask) {
  const int64_t batch = tokens.size(0), patches = mask.restore.size(1);
  const auto x = embed_->forward(tokens);
  const int64_t hidden = patches + 1 - x.size(1);
  const auto all = torch::cat({x.narrow(1, 1, x.size(1) - 1),
                               mask_token_.to(x.scalar_type()).expand({batch, hidden, x.size(2)})},
                              1);
  auto y = torch::cat({x.narrow(1, 0, 1), take_tokens(all, mask.restore)}, 1) +
           positions_.to(x.scalar_type());
  return pred_->forward(norm_->forward(blocks_->forward(y))).narrow(1, 1, patches);
}

}  // namespace facetrain
