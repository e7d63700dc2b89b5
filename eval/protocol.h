// An evaluation protocol: from embeddings of one or two sets to figures. One file a protocol in
// eval/, registered by name: `facetrain eval --protocol NAME`, `eval.sets: [{protocol: NAME, ..}]`
// and `facetrain list protocols` know it at once, with its options.
//
// A protocol never sees a network. It says which sets it wants, is told what they hold, names the
// rows that it uses, and gets those embedded. The work with images and ranks is done here, the same
// for all protocols.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/registry.h"
#include "data/source.h"
#include "eval/embedder.h"

namespace facetrain {

struct Verification;
struct Identification;

// The options that every protocol has; a protocol's own struct derives from it and begins its
// fields() with ProtocolOptions::fields(f).
struct ProtocolOptions {
  std::string name, protocol = "pairs", path;
  bool flip = true;
  void fields(auto& f) {
    f("name", name, "of the figures: NAME.accuracy; default: the last part of the path");
    f("protocol", protocol, "what to evaluate");
    f("path", path, "shard folder, shard, folder of images, or list:FILE");
    f("flip", flip, "add the embedding of the mirrored image");
  }
};

// What a protocol is told of a set before anything is embedded.
struct SetContents {
  std::string path;
  int64_t size = 0;
  std::vector<std::string> names;       // `size`, or empty: paths of images below their folder
  std::vector<std::string> identities;  // `size`, or empty: the set has no labels
  // labels_of() this set; null for a file of embeddings, which has no columns.
  std::function<std::vector<std::string>(const std::string& column,
                                         const std::vector<int64_t>& rows)>
      labels;
  // The same column as numbers, of all rows; -1 where missing. Null likewise.
  std::function<std::vector<int64_t>(const std::string& column)> numbers;
};

struct Evaluation {
  // "accuracy": for metrics.jsonl, the best checkpoint. "#known", "#pairs@young" say of how many
  // trials others are: kept, but neither drawn nor told.
  std::map<std::string, double> figures;
  std::string text;                      // what `facetrain eval` prints
  std::shared_ptr<nlohmann::json> json;  // one object: all there is to say
  // The result itself of the protocols that a report draws; null for the others.
  std::shared_ptr<const Verification> verification;
  std::shared_ptr<const Identification> identification;
};

// Whether a figure ("lfw.#pairs@young") is such a number of trials.
bool counts_trials(std::string_view figure);

class Protocol {
 public:
  static constexpr const char* kKind = "protocol";
  explicit Protocol(ProtocolOptions common) : common_(std::move(common)) {}
  virtual ~Protocol() = default;
  const ProtocolOptions& common() const { return common_; }

  // Whether SetContents::identities is wanted; a plain folder is then one folder an identity.
  virtual bool labelled() const { return false; }
  // Whether SetContents::labels will be asked.
  virtual bool grouped() const { return false; }
  // The sets by their paths. Throws when one is missing.
  virtual std::vector<std::string> paths() const;
  // Once, with those sets: reads lists, checks labels. The rows of each set that it uses; an empty
  // vector: all of them.
  virtual std::vector<std::vector<int64_t>> prepare(std::vector<SetContents> sets) = 0;
  // **Collective.** rows[k]: raw float32 embeddings of the rows that prepare() named of set k, [n,
  // D], in that order, the same on all ranks. The result is the same on all ranks.
  virtual Evaluation evaluate(std::span<const at::Tensor> rows, Communicator& comm) const = 0;

 private:
  ProtocolOptions common_;
};
using Protocols = Registry<Protocol>;

// A protocol with its images opened, ready to be run many times.
struct EvaluationSet {
  std::string name;
  std::shared_ptr<Protocol> protocol;
  std::vector<std::shared_ptr<const Source>> images;  // one a set, only what is used of it
  std::vector<std::shared_ptr<const Source>> whole;   // the same sets whole: what `rows` count
};

// `section`: an item of `eval.sets`; its `protocol` (default pairs) says which options it has.
// resolve_ checks it and fills in defaults, open_ also opens the images.
void resolve_evaluation_set(const Config& section);
EvaluationSet open_evaluation_set(const Config& section, const ImageOptions& images);

// **Collective.** Embeds the images and evaluates them; the same on all ranks and, as far as the
// network gives the same bits, at any number of ranks.
Evaluation run_evaluation(const EvaluationSet& set, const EmbedFunction& embed, int64_t batch,
                          Communicator& comm);

// **Collective.** What a recipe's evaluate() returns: the figures of all sets as "lfw.accuracy".
std::map<std::string, double> evaluate_sets(std::span<const EvaluationSet> sets,
                                            const EmbedFunction& embed, Communicator& comm);

// **Collective.** The same over files of embeddings: every path of the section names one
// (eval/embeddings.h). Identities are the file's, or the first folders of its names.
Evaluation evaluate_files(const Config& section, Communicator& comm);

// What open_source wants for a path of the command line: a folder without shards is `images:PATH`,
// or `folder:PATH` where identities are wanted.
std::string source_of_path(const std::string& path, bool labelled = false);

}  // namespace facetrain
