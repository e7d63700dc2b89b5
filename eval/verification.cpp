#include "eval/verification.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <tuple>

#include "core/check.h"
#include "eval/norms.h"

namespace facetrain {
namespace {

constexpr size_t kValThresholds = 4000;
constexpr double kValStep = 0.001;
constexpr int kThresholds = 400;
double threshold_at(int index) { return 0.01 * index; }

struct Score {
  double distance;  // squared, of unit vectors
  double cosine;
  bool same;
  int64_t fold;  // position in the list of folds
};

// Pairs of one fold get folds 0 ... k-1 (see verify_pairs); returns whether that was done.
bool cut_single_fold(PairList& pairs) {
  for (const Pair& pair : pairs)
    if (pair.fold != pairs.front().fold) return false;
  int64_t count[2] = {0, 0}, seen[2] = {0, 0};
  for (const Pair& pair : pairs) ++count[pair.same];
  int64_t rarer = std::min(count[0], count[1]);
  if (rarer == 0) rarer = std::max(count[0], count[1]);
  const int64_t folds = std::clamp<int64_t>(rarer, 2, 10);
  for (Pair& pair : pairs) pair.fold = seen[pair.same]++ * folds / count[pair.same];
  return true;
}

// Numbers of the rows that pairs use, ascending, each once.
std::vector<int64_t> used_rows(const PairList& pairs) {
  std::vector<int64_t> used;
  for (const Pair& pair : pairs) used.insert(used.end(), {pair.first, pair.second});
  std::sort(used.begin(), used.end());
  used.erase(std::unique(used.begin(), used.end()), used.end());
  return used;
}

std::vector<Score> score_pairs(const at::Tensor& rows, const PairList& pairs,
                               const std::vector<double>& norms, std::vector<int64_t>& folds) {
  const float* data = rows.const_data_ptr<float>();
  const int64_t dim = rows.size(1);
  std::vector<double> inverse(norms.size(), 0.0);
  for (size_t k = 0; k < norms.size(); ++k)
    if (norms[k] > 0) inverse[k] = 1 / norms[k];
  std::map<int64_t, int64_t> positions;
  std::vector<Score> scores;
  scores.reserve(pairs.size());
  for (const Pair& pair : pairs) {
    const auto [position, added] =
        positions.try_emplace(pair.fold, static_cast<int64_t>(folds.size()));
    if (added) folds.push_back(pair.fold);
    const float* a = data + pair.first * dim;
    const float* b = data + pair.second * dim;
    double distance = 0, cosine = 0;
    for (int64_t k = 0; k < dim; ++k) {
      const double x = a[k] * inverse[pair.first], y = b[k] * inverse[pair.second];
      distance += (x - y) * (x - y);
      cosine += x * y;
    }
    scores.push_back({distance, cosine, pair.same, position->second});
  }
  return scores;
}

// Accuracy of each fold with the first best threshold of the others. For every fold, correct[t]
// counts the pairs that threshold t judges right; the others' counts are the total less the fold's
// own.
std::vector<FoldAccuracy> fold_accuracies(const std::vector<Score>& scores,
                                          const std::vector<int64_t>& folds) {
  std::vector<double> thresholds(kThresholds);
  for (int t = 0; t < kThresholds; ++t) thresholds[t] = threshold_at(t);
  std::vector<std::vector<int64_t>> correct(folds.size(), std::vector<int64_t>(kThresholds, 0));
  std::vector<int64_t> size(folds.size(), 0), total(kThresholds, 0);
  for (const Score& score : scores) {
    ++size[score.fold];
    // Thresholds from here on say "same".
    const auto same_from =
        std::upper_bound(thresholds.begin(), thresholds.end(), score.distance) - thresholds.begin();
    const auto begin = score.same ? same_from : 0, end = score.same ? kThresholds : same_from;
    for (auto t = begin; t < end; ++t) ++correct[score.fold][t];
  }
  for (const auto& fold : correct)
    for (int t = 0; t < kThresholds; ++t) total[t] += fold[t];
  std::vector<FoldAccuracy> result;
  for (size_t f = 0; f < folds.size(); ++f) {
    int best = 0;
    for (int t = 1; t < kThresholds; ++t)
      if (total[t] - correct[f][t] > total[best] - correct[f][best]) best = t;
    result.push_back({folds[f], thresholds[best],
                      static_cast<double>(correct[f][best]) / static_cast<double>(size[f])});
  }
  return result;
}

// Area under the ROC by ranks (Mann and Whitney), ties counted half. `same` and `different` ascend.
double area_under_curve(const std::vector<double>& same, const std::vector<double>& different) {
  double wins = 0;
  for (const double score : same) {
    const auto [low, high] = std::equal_range(different.begin(), different.end(), score);
    wins += static_cast<double>(low - different.begin()) + 0.5 * static_cast<double>(high - low);
  }
  return wins / (static_cast<double>(same.size()) * static_cast<double>(different.size()));
}

// Walks the thresholds "accept when score >= t" down all distinct scores, from (FAR, FRR) = (0, 1)
// to (1, 0).
double equal_error_rate(const std::vector<double>& same, const std::vector<double>& different) {
  auto s = same.rbegin(), d = different.rbegin();
  double far = 0, frr = 1;
  while (s != same.rend() || d != different.rend()) {
    const double score = s == same.rend() ? *d : d == different.rend() ? *s : std::max(*s, *d);
    while (s != same.rend() && *s >= score) ++s;
    while (d != different.rend() && *d >= score) ++d;
    const double next_far =
        static_cast<double>(d - different.rbegin()) / static_cast<double>(different.size());
    const double next_frr =
        1 - static_cast<double>(s - same.rbegin()) / static_cast<double>(same.size());
    if (next_far >= next_frr) {  // the segment crosses FAR = FRR
      const double before = frr - far, after = next_far - next_frr;
      const double share = before + after > 0 ? before / (before + after) : 0;
      return far + share * (next_far - far);
    }
    far = next_far;
    frr = next_frr;
  }
  return far;
}

TarAtFar true_accepts(const std::vector<double>& same, const std::vector<double>& different,
                      double far) {
  // The small term keeps floor(0.29 * 100) at 29.
  const auto allowed =
      static_cast<int64_t>(std::floor(far * static_cast<double>(different.size()) + 1e-9));
  const double threshold = different[different.size() - 1 - static_cast<size_t>(allowed)];
  const auto accepted = same.end() - std::upper_bound(same.begin(), same.end(), threshold);
  return {far, static_cast<double>(accepted) / static_cast<double>(same.size()), threshold,
          allowed};
}

// The fold's threshold of VAL: between the last t with FAR(t) <= target on the other folds and the
// next one. `accepted[t]` of `impostors` different pairs lie below threshold t.
double val_threshold(const std::vector<int64_t>& accepted, int64_t impostors, double target) {
  const auto far = [&](size_t t) {
    return static_cast<double>(accepted[t]) / static_cast<double>(impostors);
  };
  if (impostors == 0 || far(accepted.size() - 1) < target) return 0;
  size_t last = 0;
  while (last + 1 < accepted.size() && far(last + 1) <= target) ++last;
  if (last + 1 == accepted.size()) return kValStep * static_cast<double>(last);
  const double share = (target - far(last)) / (far(last + 1) - far(last));
  return kValStep * (static_cast<double>(last) + share);
}

std::optional<double> share_below(const std::vector<double>& distances, double threshold) {
  if (distances.empty()) return std::nullopt;
  const auto below = std::lower_bound(distances.begin(), distances.end(), threshold);
  return static_cast<double>(below - distances.begin()) / static_cast<double>(distances.size());
}

// Mean and population deviation of those values that are there.
std::pair<double, double> mean_of(const std::vector<FoldVal>& folds,
                                  std::optional<double> FoldVal::*member) {
  double sum = 0, count = 0, squares = 0;
  for (const auto& fold : folds)
    if (fold.*member) sum += *(fold.*member), ++count;
  const double mean = sum / count;
  for (const auto& fold : folds)
    if (fold.*member) squares += std::pow(*(fold.*member) - mean, 2);
  return {mean, std::sqrt(squares / count)};
}

ValAtFar val_at_far(const std::vector<Score>& scores, const std::vector<int64_t>& folds) {
  std::vector<std::vector<double>> same(folds.size()), different(folds.size());
  for (const Score& score : scores)
    (score.same ? same : different)[static_cast<size_t>(score.fold)].push_back(score.distance);
  // How many different pairs of each fold, and of all, every threshold accepts.
  std::vector<std::vector<int64_t>> accepted(folds.size(), std::vector<int64_t>(kValThresholds));
  std::vector<int64_t> total(kValThresholds, 0);
  int64_t impostors = 0;
  for (size_t f = 0; f < folds.size(); ++f) {
    std::sort(same[f].begin(), same[f].end());
    std::sort(different[f].begin(), different[f].end());
    impostors += static_cast<int64_t>(different[f].size());
    for (size_t t = 0; t < kValThresholds; ++t)
      total[t] += accepted[f][t] = std::lower_bound(different[f].begin(), different[f].end(),
                                                    kValStep * static_cast<double>(t)) -
                                   different[f].begin();
  }
  ValAtFar result;
  for (size_t f = 0; f < folds.size(); ++f) {
    std::vector<int64_t> others(kValThresholds);
    for (size_t t = 0; t < kValThresholds; ++t) others[t] = total[t] - accepted[f][t];
    const double threshold =
        val_threshold(others, impostors - static_cast<int64_t>(different[f].size()), result.target);
    result.folds.push_back({folds[f], threshold, share_below(same[f], threshold),
                            share_below(different[f], threshold)});
  }
  std::tie(result.val, result.deviation) = mean_of(result.folds, &FoldVal::val);
  result.far = mean_of(result.folds, &FoldVal::far).first;
  return result;
}

void add_rates(Verification& result, const std::vector<Score>& scores,
               const std::vector<int64_t>& folds) {
  std::vector<double> same, different;
  for (const Score& score : scores) (score.same ? same : different).push_back(score.cosine);
  result.same_cosines = histogram(same);
  result.different_cosines = histogram(different);
  if (same.empty() || different.empty()) return;
  std::sort(same.begin(), same.end());
  std::sort(different.begin(), different.end());
  result.auc = area_under_curve(same, different);
  result.eer = equal_error_rate(same, different);
  for (const double far : {0.1, 0.01, 0.001})
    result.tar_at_far.push_back(true_accepts(same, different, far));
  result.roc = thin_curve(roc_curve(same, different));
  result.val = val_at_far(scores, folds);
}

void add_groups(Verification& result, const std::vector<Score>& scores, const PairList& pairs,
                const std::vector<std::string>& groups) {
  struct Counts {
    int64_t of[2] = {0, 0}, wrong[2] = {0, 0};  // different, same
  };
  std::map<std::string, Counts> counts;
  for (size_t k = 0; k < pairs.size() && !groups.empty(); ++k) {
    const std::string& group = groups.at(static_cast<size_t>(pairs[k].first));
    if (group.empty() || group != groups.at(static_cast<size_t>(pairs[k].second))) continue;
    Counts& count = counts[group];
    const bool accepted =
        scores[k].distance < result.folds[static_cast<size_t>(scores[k].fold)].threshold;
    ++count.of[scores[k].same];
    count.wrong[scores[k].same] += accepted != scores[k].same;
  }
  const auto share = [](int64_t part, int64_t all) -> std::optional<double> {
    if (all == 0) return std::nullopt;
    return static_cast<double>(part) / static_cast<double>(all);
  };
  for (const auto& [name, count] : counts) {
    const int64_t pairs_of = count.of[0] + count.of[1];
    result.groups.push_back(
        {name, pairs_of, count.of[1], 1 - *share(count.wrong[0] + count.wrong[1], pairs_of),
         share(count.wrong[0], count.of[0]), share(count.wrong[1], count.of[1])});
  }
}

// Same pairs of low cosine, different pairs of high cosine; scores[k] is that of pairs[k].
void add_hardest(Verification& result, const std::vector<Score>& scores, const PairList& pairs,
                 const std::vector<std::string>& names) {
  for (const bool same : {true, false}) {
    std::vector<size_t> order;
    for (size_t k = 0; k < pairs.size(); ++k)
      if (pairs[k].same == same) order.push_back(k);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      return same ? scores[a].cosine < scores[b].cosine : scores[a].cosine > scores[b].cosine;
    });
    order.resize(std::min(order.size(), kHardPairs));
    const auto name = [&](int64_t row) { return names.empty() ? "" : names.at(row); };
    for (const size_t k : order)
      result.hardest.push_back({pairs[k].fold, pairs[k].first, pairs[k].second, same,
                                scores[k].cosine, scores[k].distance, name(pairs[k].first),
                                name(pairs[k].second)});
  }
}

}  // namespace

Verification verify_pairs(const at::Tensor& embeddings, const PairList& pairs,
                          const std::vector<std::string>& names,
                          const std::vector<std::string>& groups) {
  FT_CHECK(pairs.size() >= 2, "wanted at least two pairs, found {}", pairs.size());
  const at::Tensor rows = plain_rows(embeddings);
  Verification result;
  PairList cut = pairs;
  result.folds_were_cut = cut_single_fold(cut);
  result.pairs = static_cast<int64_t>(pairs.size());
  result.same =
      std::count_if(pairs.begin(), pairs.end(), [](const Pair& pair) { return pair.same; });
  result.dim = rows.size(1);
  const std::vector<int64_t> used = used_rows(pairs);
  const std::vector<double> norms = norms_of(rows, used, names);
  for (const int64_t row : used)
    result.mean_norm += norms[static_cast<size_t>(row)] / static_cast<double>(used.size());
  std::vector<int64_t> folds;
  const std::vector<Score> scores = score_pairs(rows, cut, norms, folds);
  result.folds = fold_accuracies(scores, folds);
  const double count = static_cast<double>(result.folds.size());
  for (const auto& fold : result.folds) result.accuracy += fold.accuracy / count;
  double variance = 0;
  for (const auto& fold : result.folds)
    variance += std::pow(fold.accuracy - result.accuracy, 2) / count;
  result.deviation = std::sqrt(variance);
  add_rates(result, scores, folds);
  add_groups(result, scores, cut, groups);
  add_hardest(result, scores, cut, names);
  return result;
}

}  // namespace facetrain
