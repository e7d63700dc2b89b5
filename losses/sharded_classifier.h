// A softmax over classes whose rows are spread over ranks, never materialised as [B, C].
//
// Embeddings are gathered once; each rank passes over its classes in chunks twice: first for the
// row statistics (largest logit, Σ exp), then, when gradients are asked for, for the gradients,
// recomputing the logits of each chunk. Peak memory does not depend on B x C. The result is the
// same at any number of ranks. Shards are slices of *classes* (K rows each, class-major); a label
// may be absent from a shard. Label smoothing, focal weights, inter-class filtering, pair negatives
// and a fixed classifier work over any soft-max margin, sharded and sampled alike. Sources:
// reference/recognition.md section 1, An et al. 2022 (arXiv:2203.15565).
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/collectives.h"
#include "comm/communicator.h"
#include "comm/sharded.h"
#include "core/freeze.h"
#include "core/torch.h"
#include "losses/classifier_pass.h"
#include "losses/margin.h"

namespace facetrain {

struct ClassifierOptions {
  int64_t classes = 0;           // 0: the data's identities
  Scheduled sample_rate = 1.0;   // ρ: share of the negative classes that a step sees
  std::string rows = "sparse";   // sparse | dense: whether momentum and decay also move the rows
                                 // outside the step's sample
  double init_deviation = 0.01;  // rows start as N(0, deviation), drawn from (seed, class)
  double workspace_mb =
      0;  // bounds the buffers of one chunk of classes, a thread; 0: 4 on a CPU, 64 on a device
  std::string gemm = "auto";   // auto | fp32 | bf16: factors of the GEMMs for bf16 embeddings
  double label_smoothing = 0;  // ε, over the step's classes: losses/row_loss.h
  double focal_gamma = 0;      // γ: losses/row_loss.h
  double filter_above = 0;     // inter-class filtering (arcface_torch): the cosine to another class
                               // above it counts as 0, without gradient; before the margin
  double unpg_whisker = 0;     // in-batch pair negatives: losses/pair_negatives.h
  std::string fixed = "none";  // none | simplex: rows that are not learned: losses/simplex.h
  void fields(auto& f) {
    f("classes", classes, at_least(0), "identities; 0: as many as the data has");
    f("sample_rate", sample_rate, range(0, 1),
      "share of negative classes in a step; 0: positives only");
    f("rows", rows, one_of("sparse", "dense"),
      "unsampled rows: sparse leaves them alone, dense decays them and moves them by their "
      "momentum");
    f("init_deviation", init_deviation, range(1e-6, 10), "standard deviation of the initial rows");
    f("workspace_mb", workspace_mb, range(0, 65536),
      "memory for one chunk of classes, MB a thread; 0: 4 on a CPU (its caches), 64 on a device");
    f("gemm", gemm, one_of("auto", "fp32", "bf16"),
      "products for bf16 embeddings; auto: bf16 where the hardware is fast at it, else fp32");
    f("label_smoothing", label_smoothing, range(0, 0.999),
      "share of the label that spreads evenly over the step's classes (soft-max margins); 0: off");
    f("focal_gamma", focal_gamma, range(0, 10),
      "weighs each row by (1 - p)^gamma, p its own class's probability (soft-max margins); 0: off");
    f("filter_above", filter_above, range(0, 1),
      "a cosine to another class above this counts as 0, without gradient (arcface_torch's "
      "inter-class filtering, 0.4 there); 0: off");
    f("unpg_whisker", unpg_whisker, range(0, 100),
      "UNPG: cosines of pairs of different identities in the global batch are negatives of every "
      "row, but for outliers beyond this many interquartile ranges (1.5 there); 0: off");
    f("fixed", fixed, one_of("none", "simplex"),
      "simplex: class rows are vertices of a regular simplex, not learned; wants model.embedding "
      ">= classes - 1 (dimensions beyond stay zero)");
  }
};

class ShardedClassifier : public torch::nn::Module, public ShardOwner, public FreezePolicy {
 public:
  // Makes this rank's rows. `options.classes` must be known (>= 1) by now; `comm` must outlive the
  // module. Options that the margin cannot carry are errors.
  ShardedClassifier(const ClassifierOptions& options, int64_t dim, std::shared_ptr<Margin> margin,
                    Communicator& comm, uint64_t seed);

  // **Collective.** Before the first forward of an optimizer step, with the labels of all its
  // micro-batches (this rank's): checks them (a label < 0 or >= classes is one error on all ranks),
  // draws the step's classes (class j is in if it is a positive of the global batch or u(seed,
  // step, j) < ρ(step)) and forgets the gradients of the rows.
  void begin_step(std::span<const torch::Tensor> labels, int64_t step, int64_t total_steps,
                  double steps_per_epoch);

  // **Collective.** Loss of each of this rank's rows [b]; embeddings [b, D], labels [b] int64,
  // positions [b] int64, all on the device of the rows. fp32 embeddings: everything in fp32; bf16
  // (and fp16): GEMMs of bf16 summed in fp32, the rest fp32; fp64 rows: everything in fp64. Without
  // begin_step all classes take part. Differentiable; obeys the gradient convention of
  // comm/collectives.h; several backwards add up. Non-finite features give non-finite losses, and
  // so does, on a device, a label that is not among those of begin_step (on the CPU it is an error
  // on all ranks).
  torch::Tensor forward(const torch::Tensor& embeddings, const torch::Tensor& labels,
                        const torch::Tensor& positions);

  // After forward: this micro-batch's mean target cosine over all ranks and the mean feature norm,
  // detached (metrics).
  torch::Tensor target_cosine() const { return target_cosine_; }
  torch::Tensor feature_norm() const { return feature_norm_; }

  // "weight" and, for softmax, "bias". With all classes in the step the gradient is the parameter's
  // .grad; with a sample it is row_gradient(name) of touched_rows(name). Both are undefined until a
  // backward has written them.
  std::vector<ShardedParameter> sharded() const override;
  torch::Tensor touched_rows(const std::string& name) const override;
  torch::Tensor row_gradient(const std::string& name) const override;
  bool update_untouched_rows(const std::string& name) const override;
  void zero_grad_rows() override;
  // "weight" of a fixed classifier: no gradient, update, decay or optimizer state, but in the
  // checkpoint.
  std::vector<std::string> frozen() const override;

  int64_t classes() const { return options_.classes; }
  int64_t sampled_classes() const;  // of this rank, in this step
  Margin& margin() { return *margin_; }

  torch::Tensor weight;       // [K (end - begin), D], fp32 (fp64 under trainer.precision fp64)
  torch::Tensor bias;         // [end - begin] or undefined (softmax)
  torch::Tensor shared_bias;  // [1], replicated, or undefined (uniface)

 private:
  friend struct ClassifierFunction;
  void check_labels(const torch::Tensor& labels, const std::vector<int64_t>& counts) const;
  void check_forward(const torch::Tensor& embeddings, const torch::Tensor& labels,
                     const torch::Tensor& positions) const;
  void check_gathered(const torch::Tensor& labels, const std::vector<int64_t>& counts) const;
  PassSettings pass_settings() const;
  // Where a backward writes; the first one of a step assigns, later ones add.
  ShardGradient gradient_storage();

  ClassifierOptions options_;
  int64_t dim_;
  std::shared_ptr<Margin> margin_;
  Communicator& comm_;
  uint64_t seed_;
  Slice classes_here_;
  int64_t rows_per_class_ = 1;
  torch::Tensor step_labels_;  // all labels of the step, on the CPU; undefined before begin_step
  torch::Tensor
      sampled_;  // local class ids of this step, ascending, on the rows' device; undefined: all
  torch::Tensor gradient_space_;                // [rows, D], kept from step to step
  torch::Tensor row_gradient_, bias_gradient_;  // of this step; undefined until a backward
  torch::Tensor target_cosine_, feature_norm_;
  int64_t step_ = 0, total_steps_ = 0;
  int64_t step_classes_ = 0;  // of all ranks, in this step; kept where labels are smoothed
  double steps_per_epoch_ = 1;
};

}  // namespace facetrain
