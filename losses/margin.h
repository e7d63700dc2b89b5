// A logit rule: how the target's logit differs from the plain cosine, and what happens to the negatives.
//
// Most margins change only the target logit. They see vectors over the rows of the global batch, the same on every rank,
// and return vectors: the rule itself never touches a [B, C] tensor and does not know that classes are sharded.
#pragma once

#include <torch/torch.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/deferred.h"
#include "core/registry.h"

namespace facetrain {

// What a margin sees. All [B] over the global micro-batch, on the device, floating point of the classifier's accumulation
// type (fp32, or fp64), detached, and equal on all ranks.
struct MarginInput {
  at::Tensor target;           // cosine to the own class (raw product where normalisation is off)
  at::Tensor norm;             // feature norms
  at::Tensor label;            // int64
  at::Tensor position;         // int64, of the samples in the global stream
  at::Tensor negative_sum;     // Σ over the negatives that the pre-pass selected; undefined unless asked for
  at::Tensor negative_count;
  int64_t classes = 0;         // C of the whole problem
  int64_t step = 0, total_steps = 0;
  double steps_per_epoch = 1;
};

// How negatives are changed, from a small closed set that the kernels implement. c is the cosine of a negative, p_i the
// per-row vectors, a and b constants. Undefined vectors stand for zero.
enum class NegativeRule {
  kNone,         // c
  kAffineAbove,  // c > p0 ? a c + b : c          (mv-softmax a = w, b = w - 1; npcface; inter-class filtering a = b = 0)
  kCurricular,   // c > p0 ? c (a + c) : c        (curricularface, a = t)
  kGaussian,     // t c + t - 1, t = a exp(-(c - p0)^2 / b)   (arcnegface)
  kCircle,       // relu(c + a) (c - a), weight detached      (circle)
  kAngleDivide,  // cos(acos(c) / a), derivative detached     (sphereface-r v2)
  kPower,        // 2 ((c + 1) / 2)^a - 1 + b, correction detached (sphereface2)
};

// How a row of logits becomes a loss.
enum class RowReduction {
  kSoftmax,       // log Σ exp(l_j) - l_y
  kSoftplusSum,   // α log(1 + exp(-(l_y))) + β Σ_{j != y} log(1 + exp(l_j))   with l shifted by the bias (uniface, sphereface2)
  kGatedSum,      // -r_a(θ_y) s c_y + Σ_{j != y} r_b(θ_j) s c_j with detached sigmoid gates (sface)
};

// What a margin answers. Gradients flow through phi with the given derivatives; everything else is a constant.
struct MarginOutput {
  at::Tensor phi;           // [B] the target's logit before the scale
  at::Tensor dphi_dcos;     // [B]
  at::Tensor dphi_dnorm;    // [B] or undefined
  at::Tensor scale;         // [B]: logit = scale * value
  at::Tensor dscale_dnorm;  // [B] or undefined: a scale that is the feature norm
  at::Tensor penalty;       // [B] or undefined: added to the row's loss
  at::Tensor dpenalty_dnorm;
  std::vector<at::Tensor> negative;  // p0, p1, ... [B] of the negative rule
};

// What does not change from row to row; asked once a step.
struct MarginRule {
  bool normalise = true;        // cosines of unit vectors; false: raw products (softmax)
  bool bias = false;            // adds a learned bias a class (softmax)
  int64_t rows_per_class = 1;   // K sub-centres, the largest counts
  NegativeRule negative = NegativeRule::kNone;
  double negative_a = 0, negative_b = 0;
  RowReduction reduction = RowReduction::kSoftmax;
  double alpha = 1, beta = 1, gate_slope = 0, gate_positive = 0, gate_negative = 0;
  // Asks for one pre-pass over the negatives of each row: Σ c and count of those with c > threshold[B]. The threshold is
  // given by prepass_threshold().
  bool prepass = false;
};

class Margin : public torch::nn::Module, public Deferred {
 public:
  static constexpr const char* kKind = "margin";
  virtual MarginRule rule() const { return {}; }
  virtual MarginOutput apply(const MarginInput& input) = 0;
  virtual at::Tensor prepass_threshold(const MarginInput& input);
  // Deferred: margins without statistics have nothing to do.
  void collect(std::vector<at::Tensor>&) override {}
  void commit() override {}
  void discard() override {}
};
using Margins = Registry<Margin>;

}  // namespace facetrain
