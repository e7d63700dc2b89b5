// Face verification over pairs: accuracy over folds, AUC, EER, TAR at FAR.
//
// The rules are those of LFW's unrestricted protocol as every public evaluation implements it, and
// of shared/data/lfw-reference-embeddings/expected.txt: embeddings are made unit vectors, a pair is
// "same" when the squared Euclidean distance is below a threshold (0, 0.01 ... 3.99), and the
// threshold of a fold is the first one with the best accuracy on all other folds. All arithmetic is
// double.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/pairs.h"

namespace facetrain {

struct FoldAccuracy {
  int64_t fold;
  double threshold;  // of the squared distance, chosen on the other folds
  double accuracy;
};

// The share of same pairs whose cosine exceeds `threshold`: the impostor score that has floor(far *
// impostors) scores before it in descending order. So at most that many different pairs are
// accepted.
struct TarAtFar {
  double far, tar, threshold;
  int64_t allowed;  // floor(far * impostors)
};

struct Verification {
  int64_t pairs = 0, same = 0, dim = 0;
  std::vector<FoldAccuracy> folds;     // in order of first mention
  double accuracy = 0, deviation = 0;  // mean and population deviation of the folds' accuracies
  bool folds_were_cut = false;         // the list had one fold; see verify_pairs
  // Absent when the list has pairs of one kind only.
  std::optional<double> auc;  // P(same > different) + P(equal) / 2, over cosines
  std::optional<double>
      eer;  // where false accepts = false rejects, linear between neighbouring thresholds
  std::vector<TarAtFar> tar_at_far;  // at 0.1, 0.01, 0.001
};

// Evaluates embeddings [N, D] of any floating type. A list with one fold only is cut into ten (or
// as many as it has pairs of the rarer kind, at least two): the same pairs and the different pairs
// each into consecutive parts. Throws when a row that a pair uses holds NaN or infinity or only
// zeros (the message has names[row] when given), and for fewer than two pairs.
Verification verify_pairs(const at::Tensor& embeddings, const PairList& pairs,
                          const std::vector<std::string>& names = {});

// The lines that `facetrain eval` prints (those of expected.txt), and the same as one object.
std::string to_text(const Verification& result);
nlohmann::json to_json(const Verification& result);

}  // namespace facetrain
