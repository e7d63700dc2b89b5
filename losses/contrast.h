// Contrastive losses over rows gathered from all ranks: each rank has the losses of its own rows
// against the columns of all (reference: systems that gather features, SimCLR and MoCo v3).
//
// With gather_rows() the keys carry gradients back to the ranks that they came from, with
// gather_rows_detached() they are constants. Both obey the gradient convention of
// comm/collectives.h.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace facetrain {

// InfoNCE (van den Oord et al. 2018, arXiv:1807.03748): -log softmax(q k^T / temperature) at the
// row's own key. queries [b, D], keys [B, D], unit vectors; query i belongs to key first + i. [b]
at::Tensor info_nce(const at::Tensor& queries, const at::Tensor& keys, int64_t first,
                    double temperature);

// NT-Xent (Chen et al. 2020, SimCLR, arXiv:2002.05709, equation 1), one direction: row i of `own`
// [b, D] against [others, all]: `others` [B, D] is the other view of all ranks, its row first + i
// the positive; `all` [B, D] the same view of all ranks, of which row first + i is left out. Unit
// vectors. SimCLR's loss is the mean of both directions; its code returns their sum. [b]
at::Tensor nt_xent(const at::Tensor& own, const at::Tensor& all, const at::Tensor& others,
                   int64_t first, double temperature);

// -cos of each row (SimSiam's form, Chen and He 2021, arXiv:2011.10566, equation 1; BYOL's is
// 2 + 2 times it). `target` is a constant. [b]
at::Tensor negative_cosine(const at::Tensor& prediction, const at::Tensor& target);

// KoLeo (Sablayrolles et al. 2019, arXiv:1806.03198): minus the logarithm of the distance to the
// nearest of the other rows. Row i of `own` [b, D] is row first + i of `all` [B, D], B >= 2; unit
// vectors, fp32 or fp64. (DINOv2's code looks among the rows of one rank only.) [b]
at::Tensor koleo(const at::Tensor& own, const at::Tensor& all, int64_t first);

}  // namespace facetrain
