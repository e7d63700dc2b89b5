// Face verification over pairs: accuracy over folds, AUC, EER, TAR at FAR, VAL at FAR.
//
// The rules are those of LFW's unrestricted protocol as every public evaluation implements it, and
// of shared/data/lfw-reference-embeddings/expected.txt: embeddings are made unit vectors, a pair is
// "same" when the squared Euclidean distance is below a threshold (0, 0.01 ... 3.99), and the
// threshold of a fold is the first one with the best accuracy on all other folds. All arithmetic is
// double. docs/evaluation.md states every rule.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "eval/curves.h"
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

// VAL as facenet and arcface_torch compute it: thresholds 0, 0.001 ... 3.999 of the squared
// distance; FAR(t) is the share of different pairs of the *other* folds below t; the fold's
// threshold lies between the last t with FAR(t) <= target and the next one, where the straight line
// between them meets the target (0 where FAR never reaches it). Shares of the fold's own pairs:
struct FoldVal {
  int64_t fold;
  double threshold;
  std::optional<double> val, far;  // accepted same, different pairs; absent where it has none
};
struct ValAtFar {
  double target = 1e-3;
  double val = 0, deviation = 0, far = 0;  // means over the folds that have them; population
  std::vector<FoldVal> folds;
};

// A pair that the network finds hard: same with a low cosine, different with a high one.
struct HardPair {
  int64_t fold, first, second;  // rows, as the pair list of verify_pairs counts them
  bool same;
  double cosine, distance;
  std::string first_name, second_name;  // empty where no names were given
};
inline constexpr size_t kHardPairs = 24;

// A group of people: the pairs whose two images are both of it, judged with the thresholds of their
// folds, which all pairs together chose.
struct GroupFigures {
  std::string name;
  int64_t pairs = 0, same = 0;
  double accuracy = 0;
  // Shares of its different pairs that were accepted, of its same pairs that were rejected; absent
  // where it has none.
  std::optional<double> false_match, false_non_match;
};

struct Verification {
  int64_t pairs = 0, same = 0, dim = 0;
  std::vector<FoldAccuracy> folds;     // in order of first mention
  double accuracy = 0, deviation = 0;  // mean and population deviation of the folds' accuracies
  bool folds_were_cut = false;         // the list had one fold; see verify_pairs
  double mean_norm = 0;                // of the raw embeddings that pairs use (XNorm)
  // Absent when the list has pairs of one kind only.
  std::optional<double> auc;  // P(same > different) + P(equal) / 2, over cosines
  std::optional<double>
      eer;  // where false accepts = false rejects, linear between neighbouring thresholds
  std::optional<ValAtFar> val;
  std::vector<TarAtFar> tar_at_far;  // at 0.1, 0.01, 0.001
  std::vector<CurvePoint> roc;       // thinned; empty where auc is absent
  std::array<int64_t, kHistogramBins> same_cosines{}, different_cosines{};
  std::vector<GroupFigures> groups;  // by name; empty unless groups were given
  std::vector<HardPair> hardest;     // at most kHardPairs of each kind: same first, hardest first,
                                     // equal ones in the order of the list
};

// Evaluates embeddings [N, D] of any floating type. A list with one fold only is cut into ten (or
// as many as it has pairs of the rarer kind, at least two): the same pairs and the different pairs
// each into consecutive parts. Throws when a row that a pair uses holds NaN or infinity or only
// zeros (the message has names[row] where `names` is not empty), and for fewer than two pairs.
// groups[row], where given, is the group of a row, empty for none.
Verification verify_pairs(const at::Tensor& embeddings, const PairList& pairs,
                          const std::vector<std::string>& names = {},
                          const std::vector<std::string>& groups = {});

// The lines that `facetrain eval` prints: those of expected.txt, and EER, val and mean norm.
std::string to_text(const Verification& result);

// One object, what `facetrain eval --json` writes and `facetrain report` draws:
//
//   protocol: "pairs", pairs, same, dim, accuracy, accuracy_std, folds_were_cut, mean_norm
//   folds:      [{fold, threshold, accuracy}]
//   auc, eer:   number, or null for pairs of one kind only
//   tar_at_far: [{far, tar, cosine_threshold, allowed_false_accepts}], [] for one kind only
//   val:        {far_target, val, val_std, far, folds: [{fold, threshold, val, far}]} or null; a
//               fold's val or far is null where it has no pair of that kind
//   groups:     [{group, pairs, same, accuracy, false_match, false_non_match}], where asked for
//   roc:        {far: [..], tar: [..], cosine: [..]} or null: at most 500 points from (0, 0) to
//               (1, 1), ascending, the convex hull's corners among them; "accept when the cosine is
//               at least this one", null in the first point
//   histogram:  {low: -1, high: 1, same: [100 counts], different: [100 counts]} of cosines
//   hardest:    {same: [..], different: [..]}, at most 24 each, hardest first: {fold, cosine,
//               distance (squared), rows: [a, b], names: [a, b]}; rows count the whole set of
//               images (or the embeddings file), names are paths below the folder of images, or
//               null
//
// cli/eval.cpp adds where it came from: model (words), images (path as given; absent for an
// embeddings file), pair_list, flip (absent for an embeddings file), figures: {"accuracy": ..,
// "auc": .., "tar@far=0.001": ..} by the names that evaluation during training logs (without the
// set's name and dot), and text: the lines printed.
nlohmann::json to_json(const Verification& result);

}  // namespace facetrain
