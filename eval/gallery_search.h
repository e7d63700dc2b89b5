// Searches of a gallery: for each probe the score of its own identity, how many others reach it,
// and the best other entry.
//
// Scores are dot products of unit vectors in double, summed in the order of the dimensions, all by
// one function: equal rows have equal scores wherever they stand, so ties are ties. Blocks of
// probes meet panels of the gallery; memory beside the embeddings does not grow with either.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace facetrain {

// Rows read as unit vectors in double.
class UnitRows {
 public:
  // float32 or float64 rows [N, D] on the CPU, contiguous, and their lengths [N].
  UnitRows(at::Tensor rows, std::vector<double> norms)
      : rows_(std::move(rows)), norms_(std::move(norms)) {}
  int64_t size() const { return rows_.size(0); }
  int64_t dim() const { return rows_.size(1); }
  // `dim()` numbers, `stride` apart.
  void read(int64_t row, double* out, int64_t stride = 1) const;

 private:
  at::Tensor rows_;
  std::vector<double> norms_;
};

// Entries with the same identity stand one behind the other.
struct Gallery {
  UnitRows entries;
  std::vector<int64_t> identity;  // of each entry, ascending from 0
};

struct Search {
  double own = 0;      // best score of the probe's own identity; 0 for an unknown probe
  int64_t ahead = 0;   // other identities whose best entry scores at least `own`; 0 for an unknown
  double best = 0;     // best score of another identity's entry
  int64_t entry = -1;  // which entry that is, the first of equal ones; -1: there is none
};

// **Collective.** Searches for all probes, in their order, on every rank; the ranks share the work.
// `identity`: of each probe, -1 where it is not in the gallery.
std::vector<Search> search_gallery(const Gallery& gallery, const UnitRows& probes,
                                   const std::vector<int64_t>& identity, Communicator& comm);

}  // namespace facetrain
