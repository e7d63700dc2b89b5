// Face identification: who in a gallery is this? Rank-k (closed set) and TPIR at FPIR (open set).
//
// A gallery of entries is searched for each probe; scores are cosines in double. An identity's
// score is that of its best entry, so the rank of a probe is 1 + the number of *other* identities
// that score at least as high as its own: a tie counts against us. The measures are those of
// ISO/IEC 19795-1 and of IJB's 1:N protocol; docs/evaluation.md states every rule. The memory is
// that of the embeddings: scores are never all there at once.
#pragma once

#include <ATen/core/Tensor.h>

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "eval/curves.h"

namespace facetrain {

// Rows of one tensor with who they show.
struct LabelledRows {
  at::Tensor rows;                      // [N, D] of floats, raw
  std::vector<std::string> identities;  // N
  std::vector<std::string> names;       // N, or empty: for messages and for the hardest probes
};

struct SearchOptions {
  std::vector<int64_t> ranks = {1, 5, 10};
  std::vector<double> fpir = {0.01, 0.1};
  bool gallery_means = false;  // one entry an identity: the mean of its unit vectors
};

// The share of known probes at rank 1 whose score exceeds `threshold`: the best score of an unknown
// search that has floor(fpir * searches) scores before it in descending order. FNIR is 1 - TPIR.
struct TpirAtFpir {
  double fpir, tpir, threshold;
  int64_t allowed;  // floor(fpir * searches)
};

// A known probe with what the search found.
struct HardProbe {
  int64_t row;  // of the probes
  std::string identity, name;
  double score;  // of its own identity
  int64_t rank;
  std::string best_identity, best_name;  // the best entry of another identity
  int64_t best_row;                      // of the gallery; of its first image for a mean
  double best_score;
};

struct Identification {
  int64_t gallery = 0, gallery_images = 0, gallery_identities = 0;  // entries, images, identities
  int64_t probes = 0, known = 0, unknown = 0, dim = 0;
  bool gallery_means = false;
  std::vector<std::pair<int64_t, double>> rates;  // (k, share of known probes of rank <= k)
  std::vector<double> cmc;  // shares of rank 1, 2 ... 100 (or fewer identities)
  // True: no probe is unknown, so every known probe is searched once more in the gallery without
  // its own identity, and that counts as an unknown search.
  bool mates_removed = false;
  int64_t searches = 0;              // unknown ones; 0: open_set is empty
  std::vector<TpirAtFpir> open_set;  // at options.fpir
  std::vector<CurvePoint> curve;     // (threshold, FPIR, TPIR), thinned; "accept at or above"
  std::array<int64_t, kHistogramBins> known_scores{}, unknown_scores{};  // own identity; best other
  std::vector<HardProbe> hardest;  // of the probes with rank > 1: the largest best_score - score
};

// **Collective.** Searches every probe in the gallery; the ranks share the probes, and the result
// is the same at any number of ranks, bit for bit. Throws for an empty gallery or no probes, when
// no probe's identity is in the gallery, and for rows that hold NaN, infinity or only zeros
// (named).
Identification identify(const LabelledRows& gallery, const LabelledRows& probes,
                        const SearchOptions& options, Communicator& comm);

// The lines that `facetrain eval --protocol identification` prints.
std::string to_text(const Identification& result);

// One object:
//
//   protocol: "identification", gallery: {entries, images, identities, template: "none" | "mean"},
//   probes:   {all, known, unknown}, dim
//   rank:     [{rank, rate}]        the ranks asked for
//   cmc:      [rate of rank 1, 2 ..]
//   open_set: [{fpir, tpir, fnir, cosine_threshold, allowed_false_positives}]
//   unknown_searches: count;  mates_removed: bool
//   curve:    {fpir: [..], tpir: [..], cosine: [..]} or null, as `roc` of eval/verification.h
//   histogram: {low: -1, high: 1, known: [100 counts], unknown: [100 counts]}: score of the own
//              identity, best score of an unknown search
//   hardest:  [{cosine, rank, row, name, identity, best: {cosine, row, name, identity}}], at most
//   24
//
// and what cli/eval.cpp adds, as in eval/verification.h (`images` is then the gallery where there
// are two sets, and `probe` the other).
nlohmann::json to_json(const Identification& result);

}  // namespace facetrain
