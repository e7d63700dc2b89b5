// What needs no training: features that show how far a shortcut gets on the same pairs.
//
// A data set on which raw pixels or a colour histogram verify well teaches a network nothing about
// faces; the demo prints both beside the trained figure. Give the rows to verify_pairs(), which
// compares them by cosine.
#pragma once

#include <ATen/core/Tensor.h>

namespace facetrain {

// Pixels minus 127.5: images [B, H, W, 3] uint8 -> [B, H * W * 3] float32.
at::Tensor pixel_features(const at::Tensor& images);

// Square roots of the shares of 8 x 8 x 8 colour cells, so that the cosine is the Bhattacharyya
// coefficient: images [B, H, W, 3] uint8 -> [B, 512] float32.
at::Tensor histogram_features(const at::Tensor& images);

}  // namespace facetrain
