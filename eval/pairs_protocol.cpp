// The protocol `pairs`: verification over a list of pairs. Huang et al. 2007, LFW; the rules are
// those of eval/verification.h.
#include <ATen/ATen.h>

#include <map>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "eval/norms.h"
#include "eval/protocol.h"
#include "eval/verification.h"

namespace facetrain {
namespace {

struct PairsOptions : ProtocolOptions {
  std::string pairs, group_by;
  void fields(auto& f) {
    ProtocolOptions::fields(f);
    f("pairs", pairs, "CSV 'fold,i,j,same' of rows, or LFW's pairs.txt of image names");
    f("group_by", group_by,
      "label column of the set (age_group, attributes.glasses): figures of each group too");
  }
};

// The pairs of numbers of `used` rows become pairs of their places in `used`.
std::vector<int64_t> keep_used(PairList& pairs) {
  std::unordered_map<int64_t, int64_t> place;
  std::vector<int64_t> used;
  for (Pair& pair : pairs)
    for (int64_t* row : {&pair.first, &pair.second}) {
      const auto [found, added] = place.try_emplace(*row, static_cast<int64_t>(used.size()));
      if (added) used.push_back(*row);
      *row = found->second;
    }
  return used;
}

class PairsProtocol final : public Protocol {
 public:
  explicit PairsProtocol(const PairsOptions& options)
      : Protocol(options), list_(options.pairs), group_by_(options.group_by) {
    FT_CHECK(!list_.empty(),
             "protocol 'pairs': wanted a list of pairs (pairs, or --pairs FILE), found none");
  }

  bool grouped() const override { return !group_by_.empty(); }

  std::vector<std::vector<int64_t>> prepare(std::vector<SetContents> sets) override {
    const SetContents& set = sets.front();
    if (is_csv_pairs(list_)) {
      pairs_ = read_csv_pairs(list_, set.size);
    } else {
      FT_CHECK(!set.names.empty(),
               "{}: these embeddings have no names, so wanted pairs of rows as CSV "
               "'fold,i,j,same', found LFW's form in {} (`facetrain embed -o FILE.h5` keeps names)",
               set.path, list_);
      pairs_ = locate_pairs(read_lfw_pairs(list_), set.names, list_, set.path);
    }
    used_ = keep_used(pairs_);
    if (!set.names.empty())
      for (const int64_t row : used_) names_.push_back(set.names[static_cast<size_t>(row)]);
    if (grouped()) {
      FT_CHECK(set.labels,
               "{}: group_by {} wants a set of images that has this label column, found a file of "
               "embeddings",
               set.path, group_by_);
      groups_ = set.labels(group_by_, used_);
    }
    return {used_};
  }

  Evaluation evaluate(std::span<const at::Tensor> rows, Communicator&) const override {
    check_directions(rows.front(), names_, used_);
    Verification result = verify_pairs(rows.front(), pairs_, names_, groups_);
    for (HardPair& pair : result.hardest) {  // rows of the whole set
      pair.first = used_[static_cast<size_t>(pair.first)];
      pair.second = used_[static_cast<size_t>(pair.second)];
    }
    Evaluation evaluation;
    evaluation.figures["accuracy"] = result.accuracy;
    if (result.auc) {
      evaluation.figures["auc"] = *result.auc;
      evaluation.figures["eer"] = *result.eer;
      evaluation.figures["val"] = result.val->val;
    }
    for (const auto& point : result.tar_at_far)
      evaluation.figures[fmt::format("tar@far={:g}", point.far)] = point.tar;
    for (const auto& group : result.groups) {
      evaluation.figures["accuracy@" + group.name] = group.accuracy;
      evaluation.figures["#pairs@" + group.name] = static_cast<double>(group.pairs);
    }
    evaluation.text = to_text(result);
    evaluation.json = std::make_shared<nlohmann::json>(to_json(result));
    (*evaluation.json)["pair_list"] = list_;
    if (grouped()) (*evaluation.json)["group_by"] = group_by_;
    evaluation.verification = std::make_shared<Verification>(std::move(result));
    return evaluation;
  }

 private:
  std::string list_, group_by_;
  PairList pairs_;                   // places in used_
  std::vector<int64_t> used_;        // rows of the set
  std::vector<std::string> names_;   // of used_
  std::vector<std::string> groups_;  // of used_, or empty
};

const bool registered = Protocols::get().add<PairsProtocol, PairsOptions>(
    "pairs", "verification: accuracy over folds, AUC, EER, TAR and VAL at FAR");

}  // namespace
}  // namespace facetrain
