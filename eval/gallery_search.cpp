#include "eval/gallery_search.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "comm/collectives.h"

namespace facetrain {
namespace {

constexpr int64_t kBlock = 32;  // probes that share one pass over the gallery
constexpr int64_t kPanel = 16;  // entries side by side

template <class T>
void read_unit(const T* row, int64_t dim, double norm, double* out, int64_t stride) {
  const double inverse = 1 / norm;
  for (int64_t k = 0; k < dim; ++k) out[k * stride] = static_cast<double>(row[k]) * inverse;
}

using Lanes [[gnu::vector_size(32)]] = double;

Lanes load(const double* four) {
  Lanes lanes;
  std::memcpy(&lanes, four, sizeof(lanes));
  return lanes;
}

// Scores of one probe with kPanel entries; panel [D, kPanel]. The one way in which scores are
// computed: each column by the same operations in the same order.
void score_panel(const double* probe, const double* panel, int64_t dim, double* scores) {
  static_assert(kPanel == 16);
  Lanes sums[4] = {};
  for (int64_t k = 0; k < dim; ++k, panel += kPanel) {
    const double x = probe[k];
    sums[0] += x * load(panel);
    sums[1] += x * load(panel + 4);
    sums[2] += x * load(panel + 8);
    sums[3] += x * load(panel + 12);
  }
  std::memcpy(scores, sums, sizeof(sums));
}

// One probe on its way through the gallery.
class Walk {
 public:
  Walk(int64_t identity, double own) : identity_(identity), own_(own) {
    found_.own = identity < 0 ? 0 : own;
    found_.best = -std::numeric_limits<double>::infinity();
  }
  void meet(int64_t entry, int64_t identity, double score) {
    if (identity == identity_) return;
    if (identity != group_) leave_group();
    group_ = identity;
    group_best_ = std::max(group_best_, score);
    if (score <= found_.best) return;
    found_.best = score;
    found_.entry = entry;
  }
  Search end() {
    leave_group();
    if (found_.entry < 0) found_.best = 0;
    return found_;
  }

 private:
  void leave_group() {
    if (identity_ >= 0 && group_best_ >= own_) ++found_.ahead;
    group_best_ = -std::numeric_limits<double>::infinity();
  }
  int64_t identity_, group_ = -1;
  double own_, group_best_ = -std::numeric_limits<double>::infinity();
  Search found_;
};

// Entries [first, first + kPanel) side by side, [D, kPanel]; returns how many there are.
int64_t read_panel(const UnitRows& entries, int64_t first, int64_t end, double* panel) {
  const int64_t count = std::min(kPanel, end - first);
  for (int64_t j = 0; j < count; ++j) entries.read(first + j, panel + j, kPanel);
  return count;
}

// The best entry of the probe's own identity.
double own_score(const Gallery& gallery, const double* probe, int64_t identity, double* panel) {
  const auto [begin, end] =
      std::equal_range(gallery.identity.begin(), gallery.identity.end(), identity);
  const int64_t last = end - gallery.identity.begin();
  double scores[kPanel], best = -std::numeric_limits<double>::infinity();
  for (int64_t first = begin - gallery.identity.begin(); first < last; first += kPanel) {
    const int64_t count = read_panel(gallery.entries, first, last, panel);
    score_panel(probe, panel, gallery.entries.dim(), scores);
    best = std::max(best, *std::max_element(scores, scores + count));
  }
  return best;
}

// Probes [begin, end), at most kBlock of them.
void search_block(const Gallery& gallery, const UnitRows& probes,
                  const std::vector<int64_t>& identity, int64_t begin, int64_t end,
                  std::vector<Search>& found) {
  const int64_t dim = gallery.entries.dim(), entries = gallery.entries.size();
  std::vector<double> block(static_cast<size_t>(kBlock * dim));
  std::vector<double> panel(static_cast<size_t>(dim * kPanel), 0.0);
  std::vector<Walk> walks;
  for (int64_t probe = begin; probe < end; ++probe) {
    double* unit = block.data() + (probe - begin) * dim;
    probes.read(probe, unit);
    const int64_t own = identity[static_cast<size_t>(probe)];
    walks.emplace_back(own, own < 0 ? 0 : own_score(gallery, unit, own, panel.data()));
  }
  double scores[kPanel];
  for (int64_t first = 0; first < entries; first += kPanel) {
    const int64_t count = read_panel(gallery.entries, first, entries, panel.data());
    for (size_t p = 0; p < walks.size(); ++p) {
      score_panel(block.data() + static_cast<int64_t>(p) * dim, panel.data(), dim, scores);
      for (int64_t j = 0; j < count; ++j)
        walks[p].meet(first + j, gallery.identity[static_cast<size_t>(first + j)], scores[j]);
    }
  }
  for (Walk& walk : walks) found.push_back(walk.end());
}

// **Collective.** The searches of all ranks in rank order.
std::vector<Search> gather(const std::vector<Search>& mine, Communicator& comm) {
  const auto rows = static_cast<int64_t>(mine.size());
  const at::Tensor scores = at::empty({rows, 2}, at::kDouble);
  const at::Tensor counts = at::empty({rows, 2}, at::kLong);
  for (int64_t k = 0; k < rows; ++k) {
    const Search& search = mine[static_cast<size_t>(k)];
    scores.mutable_data_ptr<double>()[2 * k] = search.own;
    scores.mutable_data_ptr<double>()[2 * k + 1] = search.best;
    counts.mutable_data_ptr<int64_t>()[2 * k] = search.ahead;
    counts.mutable_data_ptr<int64_t>()[2 * k + 1] = search.entry;
  }
  const std::vector<int64_t> sizes = gather_counts(rows, comm);
  const at::Tensor all_scores = gather_rows_detached(scores, sizes, comm);
  const at::Tensor all_counts = gather_rows_detached(counts, sizes, comm);
  std::vector<Search> all(static_cast<size_t>(all_scores.size(0)));
  for (size_t k = 0; k < all.size(); ++k) {
    const double* score = all_scores.const_data_ptr<double>() + 2 * k;
    const int64_t* count = all_counts.const_data_ptr<int64_t>() + 2 * k;
    all[k] = {score[0], count[0], score[1], count[1]};
  }
  return all;
}

}  // namespace

void UnitRows::read(int64_t row, double* out, int64_t stride) const {
  const double norm = norms_[static_cast<size_t>(row)];
  if (rows_.scalar_type() == at::kDouble)
    read_unit(rows_.const_data_ptr<double>() + row * dim(), dim(), norm, out, stride);
  else
    read_unit(rows_.const_data_ptr<float>() + row * dim(), dim(), norm, out, stride);
}

std::vector<Search> search_gallery(const Gallery& gallery, const UnitRows& probes,
                                   const std::vector<int64_t>& identity, Communicator& comm) {
  const int64_t blocks = (probes.size() + kBlock - 1) / kBlock;
  const Slice mine = slice_of(blocks, comm.rank(), comm.size());
  std::vector<Search> found;
  for (int64_t block = mine.begin; block < mine.end; ++block)
    search_block(gallery, probes, identity, block * kBlock,
                 std::min((block + 1) * kBlock, probes.size()), found);
  return gather(found, comm);
}

}  // namespace facetrain
