// A logit rule: how the target's logit differs from the plain cosine, and what happens to the
// negatives.
//
// Most margins change only the target logit. They see vectors over the rows of the global batch,
// the same on every rank, and return vectors: the rule itself never touches a [B, C] tensor and
// does not know that classes are sharded.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/deferred.h"
#include "core/registry.h"
#include "core/torch.h"
#include "kernels/margin_rules.h"

namespace facetrain {

// A pre-pass over the negatives of each row, when the answer depends on them. It is asked for by
// the rule and its parameter [B] is given by prepass_parameter().
enum class Prepass {
  kNone,
  kSumAbove,   // prepass_sum = Σ c, prepass_count = number, of the negatives with c > parameter
               // (npcface)
  kLogSumExp,  // prepass_sum = log Σ exp(parameter c) over the negatives (adacos)
};

// A learned bias of the logits.
enum class Bias {
  kNone,
  kPerClass,  // one a class, added to its product, starts at zero (softmax)
  kShared,  // one number, the `shift` of kSoftplusSum, starts at shared_bias (uniface, sphereface2)
};

// What a margin sees. All [B] over the global micro-batch, on the device, floating point of the
// classifier's accumulation type (fp32, or fp64), detached, and equal on all ranks.
struct MarginInput {
  at::Tensor target;         // cosine to the own class (raw product where normalisation is off)
  at::Tensor norm;           // feature norms
  at::Tensor label;          // int64
  at::Tensor position;       // int64, of the samples in the global stream
  at::Tensor prepass_sum;    // undefined unless asked for
  at::Tensor prepass_count;  // of kSumAbove
  int64_t classes = 0;       // C of the whole problem
  double sample_rate = 1;    // ρ of this step
  int64_t step = 0, total_steps = 0;
  double steps_per_epoch = 1;
  // What a scheduled option is at this step.
  double now(const Scheduled& option) const { return option(step, steps_per_epoch); }
};

// What a margin answers. Gradients flow through phi, scale and penalty with the given derivatives;
// everything else is a constant. Undefined derivatives are zeros.
struct MarginOutput {
  at::Tensor phi;           // [B] the target's logit before the scale
  at::Tensor dphi_dcos;     // [B]
  at::Tensor dphi_dnorm;    // [B] or undefined
  at::Tensor scale;         // [B]: logit = scale * value, for the target and the negatives
  at::Tensor dscale_dnorm;  // [B] or undefined: a scale that depends on the feature norm
  at::Tensor penalty;       // [B] or undefined: added to the row's loss
  at::Tensor dpenalty_dnorm;
  at::Tensor weight;  // [B] or undefined: multiplies the row's loss, without the penalty
  at::Tensor p0, p1;  // [B] of the negative rule, or undefined
};

// phi with derivative 1 by the cosine, and one scale for all rows: where most margins start.
MarginOutput plain_output(const at::Tensor& phi, double scale);

// What does not change from row to row; asked once a forward.
struct MarginRule {
  bool normalise = true;       // cosines of unit vectors; false: raw products (softmax)
  int64_t rows_per_class = 1;  // K sub-centres, the largest counts
  Bias bias = Bias::kNone;
  double shared_bias = 0;  // where Bias::kShared starts
  NegativeRule negative = NegativeRule::kNone;
  double negative_a = 0, negative_b = 0;
  RowReduction reduction = RowReduction::kSoftmax;
  double alpha = 1, beta = 1;              // weights of the two parts of kSoftplusSum
  double gate_slope = 0, gate_centre = 0;  // of kGatedSum
  Prepass prepass = Prepass::kNone;
};

// A margin with state registers it as buffers, changes nothing in apply(), and commits through
// Deferred. What it sees is already equal on all ranks, so such statistics need no averaging over
// them.
class Margin : public torch::nn::Module, public Deferred {
 public:
  static constexpr const char* kKind = "margin";
  // Called once by the classifier, before rule(): what the start of a bias depends on. ρ as at the
  // first step.
  virtual void set_problem(int64_t /*classes*/, double /*sample_rate*/) {}
  virtual MarginRule rule() const { return {}; }
  virtual MarginOutput apply(const MarginInput& input) = 0;
  // [B]; called only when rule().prepass asks for it, before apply().
  virtual at::Tensor prepass_parameter(const MarginInput& input);
  // Deferred: margins without statistics have nothing to do.
  void collect(std::vector<at::Tensor>&) override {}
  void commit() override {}
  void discard() override {}
};
using Margins = Registry<Margin>;

}  // namespace facetrain
