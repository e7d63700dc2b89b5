// What is printed and written of the pairs protocol.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "eval/json_parts.h"
#include "eval/verification.h"

namespace facetrain {
namespace {

nlohmann::json to_json(const ValAtFar& val) {
  nlohmann::json json = {
      {"far_target", val.target}, {"val", val.val}, {"val_std", val.deviation}, {"far", val.far}};
  for (const auto& fold : val.folds)
    json["folds"].push_back({{"fold", fold.fold},
                             {"threshold", fold.threshold},
                             {"val", or_null(fold.val)},
                             {"far", or_null(fold.far)}});
  return json;
}

nlohmann::json to_json(const std::vector<HardPair>& pairs) {
  nlohmann::json json = {{"same", nlohmann::json::array()}, {"different", nlohmann::json::array()}};
  for (const auto& pair : pairs)
    json[pair.same ? "same" : "different"].push_back(
        {{"fold", pair.fold},
         {"cosine", pair.cosine},
         {"distance", pair.distance},
         {"rows", {pair.first, pair.second}},
         {"names", {or_null(pair.first_name), or_null(pair.second_name)}}});
  return json;
}

std::string groups_text(const Verification& result) {
  const auto share = [](const std::optional<double>& value) {
    return value ? fmt::format("{:.6f}", *value) : std::string("-");
  };
  std::string text;
  for (const auto& group : result.groups)
    text += fmt::format(
        "group '{}': pairs {} same {} accuracy {:.6f} false match {} false non-match {}\n",
        group.name, group.pairs, group.same, group.accuracy, share(group.false_match),
        share(group.false_non_match));
  if (!text.empty())
    text += "  (pairs with both images in the group, thresholds of their folds over all pairs)\n";
  return text;
}

std::string overall_text(const Verification& result) {
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
  const std::string norm =
      fmt::format("norm {:.6f} (mean length of the raw embeddings)\n", result.mean_norm);
  if (!result.auc)
    return text +
           fmt::format("AUC, EER, TAR@FAR, val undefined: {} of {} pairs are 'same'\n", result.same,
                       result.pairs) +
           norm;
  text += fmt::format("AUC {:.6f}\nEER {:.6f}\n", *result.auc, *result.eer);
  for (const auto& at : result.tar_at_far)
    text += fmt::format(
        "TAR@FAR={:g} {:.6f} (accept cosine > {:.6f}, the impostor score with {} score{} above "
        "it)\n",
        at.far, at.tar, at.threshold, at.allowed, at.allowed == 1 ? "" : "s");
  const auto different = static_cast<double>(result.pairs - result.same);
  const bool out_of_reach = std::ranges::any_of(
      result.tar_at_far, [&](const auto& at) { return at.far * different < 1; });
  return text +
         fmt::format(
             "val {:.6f} std {:.6f} far {:.6f} at FAR={:g} (thresholds 0, 0.001 .. 3.999, "
             "FAR interpolated on the other folds{})\n",
             result.val->val, result.val->deviation, result.val->far, result.val->target,
             out_of_reach ? fmt::format("; {} different pairs: a FAR below {:.2g} cannot be told "
                                        "from 0",
                                        different, 1 / different)
                          : "") +
         norm;
}

}  // namespace

std::string to_text(const Verification& result) {
  return overall_text(result) + groups_text(result);
}

nlohmann::json to_json(const Verification& result) {
  nlohmann::json json = {{"protocol", "pairs"},
                         {"pairs", result.pairs},
                         {"same", result.same},
                         {"dim", result.dim},
                         {"accuracy", result.accuracy},
                         {"accuracy_std", result.deviation},
                         {"folds_were_cut", result.folds_were_cut},
                         {"mean_norm", result.mean_norm}};
  for (const auto& fold : result.folds)
    json["folds"].push_back(
        {{"fold", fold.fold}, {"threshold", fold.threshold}, {"accuracy", fold.accuracy}});
  json["auc"] = or_null(result.auc);
  json["eer"] = or_null(result.eer);
  json["val"] = result.val ? to_json(*result.val) : nlohmann::json();
  json["roc"] = curve_json(result.roc, "far", "tar");
  json["histogram"] =
      histogram_json("same", result.same_cosines, "different", result.different_cosines);
  json["hardest"] = to_json(result.hardest);
  for (const auto& group : result.groups)
    json["groups"].push_back({{"group", group.name},
                              {"pairs", group.pairs},
                              {"same", group.same},
                              {"accuracy", group.accuracy},
                              {"false_match", or_null(group.false_match)},
                              {"false_non_match", or_null(group.false_non_match)}});
  json["tar_at_far"] = nlohmann::json::array();
  for (const auto& at : result.tar_at_far)
    json["tar_at_far"].push_back({{"far", at.far},
                                  {"tar", at.tar},
                                  {"cosine_threshold", at.threshold},
                                  {"allowed_false_accepts", at.allowed}});
  return json;
}

}  // namespace facetrain
