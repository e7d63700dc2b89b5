#include "eval/identification.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <unordered_map>

#include "core/check.h"
#include "eval/gallery_search.h"
#include "eval/norms.h"

namespace facetrain {
namespace {

constexpr size_t kHardProbes = 24;
constexpr int64_t kLongestCmc = 100;

using Numbers = std::unordered_map<std::string, int64_t>;

// The gallery with its entries in the order of search_gallery, and where each comes from.
struct Prepared {
  Gallery gallery;
  std::vector<int64_t> row;         // of the gallery given, by entry; the first image for a mean
  std::vector<std::string> people;  // by identity number
};

void check(const LabelledRows& set, const char* what) {
  FT_CHECK(set.rows.size(0) > 0, "identification: the {} is empty; wanted at least one image",
           what);
  FT_CHECK(static_cast<int64_t>(set.identities.size()) == set.rows.size(0),
           "identification: the {} has {} rows and {} labels; wanted one identity a row", what,
           set.rows.size(0), set.identities.size());
}

// Identities get numbers in the order of their first mention.
std::vector<int64_t> number_identities(const std::vector<std::string>& identities, Numbers& numbers,
                                       std::vector<std::string>& people) {
  std::vector<int64_t> result;
  for (const auto& name : identities) {
    const auto [found, added] = numbers.try_emplace(name, static_cast<int64_t>(people.size()));
    if (added) people.push_back(name);
    result.push_back(found->second);
  }
  return result;
}

std::vector<int64_t> all_rows(const at::Tensor& rows) {
  std::vector<int64_t> order(static_cast<size_t>(rows.size(0)));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

UnitRows unit_rows(const at::Tensor& rows, const std::vector<std::string>& names) {
  return {rows, norms_of(rows, all_rows(rows), names)};
}

// Means of the unit vectors of rows `order`, whose identities ascend; [people, D] in double.
UnitRows mean_rows(const UnitRows& rows, const std::vector<int64_t>& order,
                   const std::vector<int64_t>& identity, const std::vector<std::string>& people) {
  const int64_t dim = rows.dim();
  const at::Tensor means = at::zeros({static_cast<int64_t>(people.size()), dim}, at::kDouble);
  std::vector<double> unit(static_cast<size_t>(dim)), norms;
  for (size_t k = 0; k < order.size(); ++k) {
    rows.read(order[k], unit.data());
    double* mean = means.mutable_data_ptr<double>() + identity[k] * dim;
    for (int64_t d = 0; d < dim; ++d) mean[d] += unit[static_cast<size_t>(d)];
  }
  for (size_t person = 0; person < people.size(); ++person) {
    const double* mean = means.const_data_ptr<double>() + static_cast<int64_t>(person) * dim;
    const double norm = std::sqrt(std::inner_product(mean, mean + dim, mean, 0.0));
    FT_CHECK(norm > 1e-9,
             "identification: the unit vectors of '{}' add up to zero, so their mean has no "
             "direction; search its images (--gallery-template none)",
             people[person]);
    norms.push_back(norm);  // of the sum: its direction is that of the mean
  }
  return {means, norms};
}

Prepared prepare(const LabelledRows& set, bool means, Numbers& numbers) {
  std::vector<std::string> people;
  const std::vector<int64_t> identity = number_identities(set.identities, numbers, people);
  const at::Tensor rows = plain_rows(set.rows);
  std::vector<int64_t> order = all_rows(rows), sorted;
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return identity[static_cast<size_t>(a)] < identity[static_cast<size_t>(b)];
  });
  for (const int64_t row : order) sorted.push_back(identity[static_cast<size_t>(row)]);
  const UnitRows unit = unit_rows(rows, set.names);
  if (!means) {
    const at::Tensor index = at::tensor(order, at::kLong);
    const at::Tensor in_order = rows.index_select(0, index);
    return {{unit_rows(in_order, {}), sorted}, order, people};
  }
  std::vector<int64_t> first(people.size(), -1), one_each(people.size());
  for (size_t k = 0; k < order.size(); ++k)
    if (first[static_cast<size_t>(sorted[k])] < 0) first[static_cast<size_t>(sorted[k])] = order[k];
  std::iota(one_each.begin(), one_each.end(), 0);
  return {{mean_rows(unit, order, sorted, people), one_each}, first, people};
}

void add_closed_set(Identification& result, const std::vector<Search>& searches,
                    const std::vector<int64_t>& identity, const SearchOptions& options) {
  const auto known = static_cast<double>(result.known);
  std::vector<int64_t> at_rank(static_cast<size_t>(result.gallery_identities), 0);
  for (size_t k = 0; k < searches.size(); ++k)
    if (identity[k] >= 0) ++at_rank[static_cast<size_t>(searches[k].ahead)];
  std::partial_sum(at_rank.begin(), at_rank.end(), at_rank.begin());
  const auto rate = [&](int64_t rank) {
    return static_cast<double>(
               at_rank[static_cast<size_t>(std::min(rank, result.gallery_identities) - 1)]) /
           known;
  };
  for (const int64_t rank : options.ranks) result.rates.emplace_back(rank, rate(rank));
  for (int64_t rank = 1; rank <= std::min(kLongestCmc, result.gallery_identities); ++rank)
    result.cmc.push_back(rate(rank));
}

TpirAtFpir tpir_at(double fpir, const std::vector<double>& first_ranks, int64_t known,
                   const std::vector<double>& unknown) {
  // The small term keeps floor(0.29 * 100) at 29.
  // The small term keeps floor(0.29 * 100) at 29; a rate next to 1 must not become all of them.
  const auto allowed = std::min<int64_t>(
      static_cast<int64_t>(std::floor(fpir * static_cast<double>(unknown.size()) + 1e-9)),
      static_cast<int64_t>(unknown.size()) - 1);
  const double threshold = unknown[unknown.size() - 1 - static_cast<size_t>(allowed)];
  const auto accepted =
      first_ranks.end() - std::upper_bound(first_ranks.begin(), first_ranks.end(), threshold);
  return {fpir, static_cast<double>(accepted) / static_cast<double>(known), threshold, allowed};
}

void add_open_set(Identification& result, const std::vector<Search>& searches,
                  const std::vector<int64_t>& identity, const SearchOptions& options) {
  std::vector<double> own, first_ranks, unknown;
  for (size_t k = 0; k < searches.size(); ++k) {
    const bool known = identity[k] >= 0;
    if (known) own.push_back(searches[k].own);
    if (known && searches[k].ahead == 0) first_ranks.push_back(searches[k].own);
    if (known == result.mates_removed && searches[k].entry >= 0)
      unknown.push_back(searches[k].best);
  }
  result.known_scores = histogram(own);
  result.unknown_scores = histogram(unknown);
  result.searches = static_cast<int64_t>(unknown.size());
  if (unknown.empty()) return;
  std::sort(first_ranks.begin(), first_ranks.end());
  std::sort(unknown.begin(), unknown.end());
  for (const double fpir : options.fpir)
    result.open_set.push_back(tpir_at(fpir, first_ranks, result.known, unknown));
  if (first_ranks.empty()) return;
  result.curve = thin_curve(roc_curve(first_ranks, unknown));
  for (auto& point : result.curve)  // a share of all known probes
    point.true_accepts *=
        static_cast<double>(first_ranks.size()) / static_cast<double>(result.known);
}

void add_hardest(Identification& result, const std::vector<Search>& searches,
                 const std::vector<int64_t>& identity, const Prepared& prepared,
                 const LabelledRows& gallery, const LabelledRows& probes) {
  std::vector<size_t> order;
  for (size_t k = 0; k < searches.size(); ++k)
    if (identity[k] >= 0 && searches[k].ahead > 0) order.push_back(k);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return searches[a].best - searches[a].own > searches[b].best - searches[b].own;
  });
  order.resize(std::min(order.size(), kHardProbes));
  const auto name = [](const LabelledRows& set, int64_t row) {
    return set.names.empty() ? "" : set.names.at(static_cast<size_t>(row));
  };
  for (const size_t k : order) {
    const Search& search = searches[k];
    const int64_t row = prepared.row[static_cast<size_t>(search.entry)];
    const auto probe = static_cast<int64_t>(k);
    result.hardest.push_back({probe, probes.identities[k], name(probes, probe), search.own,
                              search.ahead + 1, gallery.identities[static_cast<size_t>(row)],
                              name(gallery, row), row, search.best});
  }
}

void check_options(const SearchOptions& options) {
  for (const int64_t rank : options.ranks)
    FT_CHECK(rank >= 1, "identification: wanted ranks from 1 on, found {}", rank);
  for (const double fpir : options.fpir)
    FT_CHECK(fpir >= 0 && fpir < 1, "identification: wanted fpir from 0 to below 1, found {:g}",
             fpir);
}

}  // namespace

Identification identify(const LabelledRows& gallery, const LabelledRows& probes,
                        const SearchOptions& options, Communicator& comm) {
  check_options(options);
  check(gallery, "gallery");
  check(probes, "probe set");
  FT_CHECK(gallery.rows.size(1) == probes.rows.size(1),
           "identification: the gallery's embeddings have {} dimensions, those of the probes {}; "
           "wanted both from one network",
           gallery.rows.size(1), probes.rows.size(1));
  Numbers numbers;
  const Prepared prepared = prepare(gallery, options.gallery_means, numbers);
  Identification result;
  result.gallery = prepared.gallery.entries.size();
  result.gallery_images = gallery.rows.size(0);
  result.gallery_identities = static_cast<int64_t>(prepared.people.size());
  result.gallery_means = options.gallery_means;
  result.probes = probes.rows.size(0);
  result.dim = probes.rows.size(1);
  std::vector<int64_t> identity;
  for (const auto& person : probes.identities) {
    const auto found = numbers.find(person);
    identity.push_back(found == numbers.end() ? -1 : found->second);
    result.known += found != numbers.end();
  }
  result.unknown = result.probes - result.known;
  FT_CHECK(result.known > 0,
           "identification: no probe's identity is in the gallery (the first probe is of '{}', the "
           "first of the gallery of '{}'); wanted both sets labelled alike",
           probes.identities.front(), gallery.identities.front());
  result.mates_removed = result.unknown == 0;
  const UnitRows unit = unit_rows(plain_rows(probes.rows), probes.names);
  const std::vector<Search> searches = search_gallery(prepared.gallery, unit, identity, comm);
  add_closed_set(result, searches, identity, options);
  add_open_set(result, searches, identity, options);
  add_hardest(result, searches, identity, prepared, gallery, probes);
  return result;
}

}  // namespace facetrain
