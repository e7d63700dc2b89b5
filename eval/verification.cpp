#include "eval/verification.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "core/check.h"

namespace facetrain {
namespace {

constexpr int kThresholds = 400;
double threshold_at(int index) { return 0.01 * index; }

struct Score {
  double distance;  // squared, of unit vectors
  double cosine;
  bool same;
  int64_t fold;  // position in the list of folds
};

// 1 / |row| of the rows that pairs use; 0 for the others.
std::vector<double> inverse_norms(const at::Tensor& rows, const PairList& pairs,
                                  const std::vector<std::string>& names) {
  std::vector<double> inverse(rows.size(0), 0.0);
  const float* data = rows.data_ptr<float>();
  const int64_t dim = rows.size(1);
  for (const Pair& pair : pairs)
    for (const int64_t row : {pair.first, pair.second}) {
      FT_CHECK(row >= 0 && row < rows.size(0),
               "a pair names row {}; the embeddings have rows 0 to {}", row, rows.size(0) - 1);
      if (inverse[row] != 0) continue;
      double sum = 0;
      for (int64_t k = 0; k < dim; ++k)
        sum += static_cast<double>(data[row * dim + k]) * data[row * dim + k];
      const std::string name =
          row < static_cast<int64_t>(names.size()) ? fmt::format(" ({})", names[row]) : "";
      FT_CHECK(
          std::isfinite(sum),
          "the embedding of row {}{} holds NaN or infinity: the network or its input is broken",
          row, name);
      FT_CHECK(sum > 0, "the embedding of row {}{} is all zeros and has no direction", row, name);
      inverse[row] = 1 / std::sqrt(sum);
    }
  return inverse;
}

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

std::vector<Score> score_pairs(const at::Tensor& rows, const PairList& pairs,
                               const std::vector<double>& inverse, std::vector<int64_t>& folds) {
  const float* data = rows.data_ptr<float>();
  const int64_t dim = rows.size(1);
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

void add_rates(Verification& result, const std::vector<Score>& scores) {
  std::vector<double> same, different;
  for (const Score& score : scores) (score.same ? same : different).push_back(score.cosine);
  if (same.empty() || different.empty()) return;
  std::sort(same.begin(), same.end());
  std::sort(different.begin(), different.end());
  result.auc = area_under_curve(same, different);
  result.eer = equal_error_rate(same, different);
  for (const double far : {0.1, 0.01, 0.001})
    result.tar_at_far.push_back(true_accepts(same, different, far));
}

}  // namespace

Verification verify_pairs(const at::Tensor& embeddings, const PairList& pairs,
                          const std::vector<std::string>& names) {
  FT_CHECK(embeddings.dim() == 2 && embeddings.is_floating_point(),
           "wanted embeddings [N, D] of floats, found {} of {}",
           fmt::join(embeddings.sizes(), " x "), toString(embeddings.scalar_type()));
  FT_CHECK(pairs.size() >= 2, "wanted at least two pairs, found {}", pairs.size());
  const at::Tensor rows = embeddings.to(at::kCPU, at::kFloat).contiguous();
  Verification result;
  PairList cut = pairs;
  result.folds_were_cut = cut_single_fold(cut);
  result.pairs = static_cast<int64_t>(pairs.size());
  result.same =
      std::count_if(pairs.begin(), pairs.end(), [](const Pair& pair) { return pair.same; });
  result.dim = rows.size(1);
  std::vector<int64_t> folds;
  const std::vector<Score> scores = score_pairs(rows, cut, inverse_norms(rows, cut, names), folds);
  result.folds = fold_accuracies(scores, folds);
  const double count = static_cast<double>(result.folds.size());
  for (const auto& fold : result.folds) result.accuracy += fold.accuracy / count;
  double variance = 0;
  for (const auto& fold : result.folds)
    variance += std::pow(fold.accuracy - result.accuracy, 2) / count;
  result.deviation = std::sqrt(variance);
  add_rates(result, scores);
  return result;
}

std::string to_text(const Verification& result) {
  std::string text =
      fmt::format("pairs {} folds {} dim {}\n", result.pairs, result.folds.size(), result.dim);
  if (result.folds_were_cut)
    text += fmt::format("  (the list has one fold; it was cut into {})\n", result.folds.size());
  text +=
      fmt::format("kfold accuracy {:.6f} std {:.6f} per fold", result.accuracy, result.deviation);
  for (const auto& fold : result.folds) text += fmt::format(" {:.6f}", fold.accuracy);
  text +=
      "\n  (squared L2 distance of unit vectors; thresholds 0, 0.01 .. 3.99, same when distance < "
      "t; first best threshold "
      "on the other folds)\n";
  if (!result.auc)
    return text + fmt::format("AUC, EER, TAR@FAR undefined: {} of {} pairs are 'same'\n",
                              result.same, result.pairs);
  text += fmt::format("AUC {:.6f}\nEER {:.6f}\n", *result.auc, *result.eer);
  for (const auto& at : result.tar_at_far)
    text += fmt::format(
        "TAR@FAR={:g} {:.6f} (accept cosine > {:.6f}, the impostor score with {} scores above "
        "it)\n",
        at.far, at.tar, at.threshold, at.allowed);
  return text;
}

nlohmann::json to_json(const Verification& result) {
  nlohmann::json json = {{"protocol", "pairs"},
                         {"pairs", result.pairs},
                         {"same", result.same},
                         {"dim", result.dim},
                         {"accuracy", result.accuracy},
                         {"accuracy_std", result.deviation},
                         {"folds_were_cut", result.folds_were_cut}};
  for (const auto& fold : result.folds)
    json["folds"].push_back(
        {{"fold", fold.fold}, {"threshold", fold.threshold}, {"accuracy", fold.accuracy}});
  json["auc"] = result.auc ? nlohmann::json(*result.auc) : nlohmann::json();
  json["eer"] = result.eer ? nlohmann::json(*result.eer) : nlohmann::json();
  json["tar_at_far"] = nlohmann::json::array();
  for (const auto& at : result.tar_at_far)
    json["tar_at_far"].push_back({{"far", at.far},
                                  {"tar", at.tar},
                                  {"cosine_threshold", at.threshold},
                                  {"allowed_false_accepts", at.allowed}});
  return json;
}

}  // namespace facetrain
