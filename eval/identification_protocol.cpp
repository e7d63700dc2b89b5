// The protocol `identification`: rank-k and TPIR at FPIR; the rules are those of
// eval/identification.h.
#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <set>

#include "eval/identification.h"
#include "eval/labels.h"
#include "eval/norms.h"
#include "eval/protocol.h"

namespace facetrain {
namespace {

struct IdentificationOptions : ProtocolOptions {
  std::string gallery, probe, labels, probe_labels, gallery_template = "none";
  std::vector<int64_t> ranks = {1, 5, 10};
  std::vector<double> fpir = {0.01, 0.1};
  void fields(auto& f) {
    ProtocolOptions::fields(f);
    f("gallery", gallery, "set to search in; without it `path` is split: see `probe`");
    f("probe", probe,
      "set whose images are searched; without it the first image of each identity of `path` is the "
      "gallery, the others are the probes");
    f("labels", labels, "file with one identity a line for the rows of `path` or `gallery`");
    f("probe_labels", probe_labels, "the same for `probe`");
    f("gallery_template", gallery_template, one_of("none", "mean"),
      "an entry an image, or one an identity: the mean of its unit vectors");
    f("ranks", ranks, "ranks to print, as 1,5,10");
    f("fpir", fpir, "false positive identification rates to print, as 0.01,0.1");
  }
};

class IdentificationProtocol final : public Protocol {
 public:
  explicit IdentificationProtocol(const IdentificationOptions& options)
      : Protocol(options), options_(options) {
    FT_CHECK(options_.gallery.empty() || options_.path.empty(),
             "protocol 'identification': wanted one set to search in, found `path` ('{}') and "
             "`gallery` ('{}'); leave one out",
             options_.path, options_.gallery);
    FT_CHECK(!options_.probe.empty() || (options_.gallery.empty() && options_.probe_labels.empty()),
             "protocol 'identification': wanted `probe` beside `gallery` (or `path` alone, a "
             "labelled set that is split), found no probe set");
  }

  bool labelled() const override { return true; }

  std::vector<std::string> paths() const override {
    if (options_.probe.empty()) return Protocol::paths();
    const std::string& gallery = options_.gallery.empty() ? options_.path : options_.gallery;
    FT_CHECK(!gallery.empty(),
             "protocol 'identification': wanted a set to search in (gallery) beside the probes "
             "'{}'",
             options_.probe);
    return {gallery, options_.probe};
  }

  std::vector<std::vector<int64_t>> prepare(std::vector<SetContents> sets) override {
    label(sets.front(), options_.labels, "labels");
    if (sets.size() == 1) {
      split(sets.front());
      return {{}};
    }
    label(sets.back(), options_.probe_labels, "probe_labels");
    gallery_ = {{}, std::move(sets[0].identities), std::move(sets[0].names)};
    probes_ = {{}, std::move(sets[1].identities), std::move(sets[1].names)};
    return {{}, {}};
  }

  Evaluation evaluate(std::span<const at::Tensor> rows, Communicator& comm) const override {
    LabelledRows gallery = gallery_, probes = probes_;
    gallery.rows = rows.front();
    probes.rows = rows.back();
    if (rows.size() == 1) {
      check_directions(rows.front(), names_);  // by the rows of the whole set
      gallery.rows = rows.front().index_select(0, at::tensor(first_, at::kLong));
      probes.rows = rows.front().index_select(0, at::tensor(further_, at::kLong));
    }
    Identification result =
        identify(gallery, probes,
                 {options_.ranks, options_.fpir, options_.gallery_template == "mean"}, comm);
    if (rows.size() == 1)
      for (HardProbe& hard : result.hardest) {  // rows of the whole set
        hard.row = further_[static_cast<size_t>(hard.row)];
        hard.best_row = first_[static_cast<size_t>(hard.best_row)];
      }
    return report(result);
  }

 private:
  static void label(SetContents& set, const std::string& file, const char* option) {
    FT_CHECK(set.size > 0, "{}: an empty set; wanted images to search in and to search for",
             set.path);
    if (!file.empty()) set.identities = read_labels(file, set.size);
    FT_CHECK(
        !set.identities.empty(),
        "{}: its images have no labels, so nobody can be identified; wanted a folder an "
        "identity, shards with identities, or a file with one identity a line ({}: FILE; on the "
        "command line --{} FILE)",
        set.path, option, option == std::string("labels") ? "labels" : "probe-labels");
  }

  // The first image of each identity is the gallery, the others are the probes.
  void split(const SetContents& set) {
    names_ = set.names;
    std::set<std::string> seen;
    for (int64_t row = 0; row < set.size; ++row) {
      const auto& identity = set.identities[static_cast<size_t>(row)];
      const bool first = seen.insert(identity).second;
      (first ? first_ : further_).push_back(row);
      LabelledRows& part = first ? gallery_ : probes_;
      part.identities.push_back(identity);
      if (!set.names.empty()) part.names.push_back(set.names[static_cast<size_t>(row)]);
    }
    FT_CHECK(!further_.empty(),
             "{}: each of its {} identities has one image, so nothing is left to search for; "
             "wanted identities of two images or more, or a set of probes (probe)",
             set.path, seen.size());
  }

  Evaluation report(const Identification& result) const {
    Evaluation evaluation;
    for (const auto& [rank, rate] : result.rates)
      evaluation.figures[fmt::format("rank{}", rank)] = rate;
    for (const auto& at : result.open_set)
      evaluation.figures[fmt::format("tpir@fpir={:g}", at.fpir)] = at.tpir;
    evaluation.figures["#known"] = static_cast<double>(result.known);
    evaluation.text = to_text(result);
    evaluation.json = std::make_shared<nlohmann::json>(to_json(result));
    (*evaluation.json)["probe"] =
        options_.probe.empty() ? nlohmann::json() : nlohmann::json(options_.probe);
    evaluation.identification = std::make_shared<Identification>(result);
    return evaluation;
  }

  IdentificationOptions options_;
  LabelledRows gallery_, probes_;         // without rows
  std::vector<std::string> names_;        // of one set
  std::vector<int64_t> first_, further_;  // of one set: rows of the gallery, of the probes
};

const bool registered = Protocols::get().add<IdentificationProtocol, IdentificationOptions>(
    "identification", "who is this: rank-k of a gallery, and TPIR at FPIR for an open set");

}  // namespace
}  // namespace facetrain
