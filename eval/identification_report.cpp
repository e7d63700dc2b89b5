// What is printed and written of the identification protocol.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "eval/identification.h"
#include "eval/json_parts.h"

namespace facetrain {
namespace {

nlohmann::json to_json(const std::vector<HardProbe>& probes) {
  auto json = nlohmann::json::array();
  for (const auto& probe : probes)
    json.push_back({{"cosine", probe.score},
                    {"rank", probe.rank},
                    {"row", probe.row},
                    {"name", or_null(probe.name)},
                    {"identity", probe.identity},
                    {"best",
                     {{"cosine", probe.best_score},
                      {"row", probe.best_row},
                      {"name", or_null(probe.best_name)},
                      {"identity", probe.best_identity}}}});
  return json;
}

std::string unknown_text(const Identification& result) {
  return result.mates_removed
             ? fmt::format("{} unknown searches: known probes, own identity out of the gallery",
                           result.searches)
             : fmt::format("{} unknown searches: probes that are not in the gallery",
                           result.searches);
}

}  // namespace

std::string to_text(const Identification& result) {
  std::string text =
      fmt::format("gallery {} identities {} images {}{} dim {}\nprobes {} known {} unknown {}\n",
                  result.gallery, result.gallery_identities, result.gallery_images,
                  result.gallery_means ? " (means of unit vectors)" : "", result.dim, result.probes,
                  result.known, result.unknown);
  for (const auto& [rank, rate] : result.rates) text += fmt::format("rank-{} {:.6f}\n", rank, rate);
  text +=
      "  (closed set: share of known probes; an identity scores as its best entry, ties count "
      "against us)\n";
  if (result.open_set.empty())
    return text + "TPIR@FPIR undefined: no unknown search (the gallery has one identity)\n";
  for (const auto& at : result.open_set)
    text += fmt::format(
        "TPIR@FPIR={:g} {:.6f} FNIR {:.6f} (accept cosine > {:.6f}, the unknown score with {} "
        "above it)\n",
        at.fpir, at.tpir, 1 - at.tpir, at.threshold, at.allowed);
  return text + fmt::format("  (open set: {})\n", unknown_text(result));
}

nlohmann::json to_json(const Identification& result) {
  nlohmann::json json = {
      {"protocol", "identification"},
      {"gallery",
       {{"entries", result.gallery},
        {"images", result.gallery_images},
        {"identities", result.gallery_identities},
        {"template", result.gallery_means ? "mean" : "none"}}},
      {"probes", {{"all", result.probes}, {"known", result.known}, {"unknown", result.unknown}}},
      {"dim", result.dim},
      {"cmc", result.cmc},
      {"unknown_searches", result.searches},
      {"mates_removed", result.mates_removed},
      {"curve", curve_json(result.curve, "fpir", "tpir")},
      {"histogram", histogram_json("known", result.known_scores, "unknown", result.unknown_scores)},
      {"hardest", to_json(result.hardest)}};
  json["rank"] = nlohmann::json::array();
  for (const auto& [rank, rate] : result.rates)
    json["rank"].push_back({{"rank", rank}, {"rate", rate}});
  json["open_set"] = nlohmann::json::array();
  for (const auto& at : result.open_set)
    json["open_set"].push_back({{"fpir", at.fpir},
                                {"tpir", at.tpir},
                                {"fnir", 1 - at.tpir},
                                {"cosine_threshold", at.threshold},
                                {"allowed_false_positives", at.allowed}});
  return json;
}

}  // namespace facetrain
