#include "eval/protocol.h"

#include <ATen/ATen.h>

#include <filesystem>

#include "core/check.h"
#include "eval/embeddings.h"
#include "eval/labels.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

// Some samples of another source, in an order of our own.
class Subset final : public Source {
 public:
  Subset(std::shared_ptr<const Source> whole, std::vector<int64_t> rows)
      : whole_(std::move(whole)), rows_(std::move(rows)) {}
  int64_t size() const override { return static_cast<int64_t>(rows_.size()); }
  Sample read(int64_t index) const override { return whole_->read(row(index)); }
  Sample read_into(int64_t index, const at::Tensor& room) const override {
    return whole_->read_into(row(index), room);
  }
  std::vector<Column> columns() const override { return whole_->columns(); }
  int64_t identity(int64_t index) const override { return whole_->identity(row(index)); }
  int64_t identities() const override { return whole_->identities(); }
  std::string describe(int64_t index) const override { return whole_->describe(row(index)); }
  std::string name() const override { return whole_->name(); }
  std::string key(int64_t index) const override { return whole_->key(row(index)); }

 private:
  int64_t row(int64_t index) const { return rows_.at(static_cast<size_t>(index)); }
  std::shared_ptr<const Source> whole_;
  std::vector<int64_t> rows_;
};

const Protocols::Entry& entry_of(const Config& section) {
  const auto node = section.node().find("protocol");
  const bool written = node && node->kind == ConfigNode::Kind::kScalar;
  const std::string name = written ? node->scalar : ProtocolOptions().protocol;
  for (const auto& entry : Protocols::get().entries())
    if (entry.name == name) return entry;
  const auto known = Protocols::get().names();
  const std::string guess = config_detail::nearest(name, known);
  FT_FAIL("{}: unknown protocol '{}'{}; known: {}", section.place(), name,
          guess.empty() ? "" : fmt::format(" (did you mean '{}'?)", guess), fmt::join(known, ", "));
}

std::string set_name(const Protocol& protocol) {
  if (!protocol.common().name.empty()) return protocol.common().name;
  const fs::path path = fs::path(protocol.paths().front()).lexically_normal();
  return (path.has_filename() ? path.filename() : path.parent_path().filename()).string();
}

SetContents contents_of(const std::string& path, const std::shared_ptr<const Source>& set,
                        bool labelled) {
  const Source& source = *set;
  SetContents contents{path, source.size(), keys_of(source), {}, {}, {}};
  contents.labels = [set](const std::string& column, const std::vector<int64_t>& rows) {
    return labels_of(*set, column, rows);
  };
  contents.numbers = [set](const std::string& column) { return numbers_of(*set, column); };
  if (labelled) contents.identities = identities_of(source);
  return contents;
}

// Descriptions stand for names where packed images have none; they say nothing of identities.
bool are_paths(const std::vector<std::string>& names) {
  return !names.empty() && !names.front().starts_with("set '");
}

}  // namespace

std::vector<std::string> Protocol::paths() const {
  FT_CHECK(!common_.path.empty(), "protocol '{}': wanted the images of a set (path, or --images)",
           common_.protocol);
  return {common_.path};
}

void resolve_evaluation_set(const Config& section) { entry_of(section).resolve(section); }

EvaluationSet open_evaluation_set(const Config& section, const ImageOptions& images) {
  EvaluationSet set;
  set.protocol = entry_of(section).create(section);
  const bool labelled = set.protocol->labelled();
  ImageOptions plain = images;
  plain.columns = {"name"};  // of packed images; identities come without being named
  if (set.protocol->grouped()) plain.columns.reset();
  std::vector<SetContents> contents;
  for (const auto& path : set.protocol->paths()) {
    set.images.push_back(open_source(source_of_path(path, labelled), plain));
    contents.push_back(contents_of(path, set.images.back(), labelled));
  }
  set.whole = set.images;
  set.name = set_name(*set.protocol);
  FT_CHECK(set.name.find_first_of("@|#") == std::string::npos,
           "the set's name '{}' has one of @ | #, which figures use: give it another `name`",
           set.name);
  const auto used = set.protocol->prepare(std::move(contents));
  for (size_t k = 0; k < used.size(); ++k)
    if (!used[k].empty()) set.images[k] = std::make_shared<Subset>(set.images[k], used[k]);
  return set;
}

bool counts_trials(std::string_view figure) { return figure.find('#') != std::string_view::npos; }

Evaluation run_evaluation(const EvaluationSet& set, const EmbedFunction& embed, int64_t batch,
                          Communicator& comm) {
  std::vector<at::Tensor> rows;
  for (const auto& images : set.images)
    rows.push_back(embed_source(*images, embed, {batch, set.protocol->common().flip}, comm));
  return set.protocol->evaluate(rows, comm);
}

std::map<std::string, double> evaluate_sets(std::span<const EvaluationSet> sets,
                                            const EmbedFunction& embed, Communicator& comm) {
  std::map<std::string, double> figures;
  for (const auto& set : sets) {
    const Evaluation evaluation = run_evaluation(set, embed, EmbedOptions().batch, comm);
    for (const auto& [figure, value] : evaluation.figures) figures[set.name + "." + figure] = value;
  }
  return figures;
}

Evaluation evaluate_files(const Config& section, Communicator& comm) {
  const auto protocol = entry_of(section).create(section);
  std::vector<at::Tensor> rows;
  std::vector<SetContents> contents;
  for (const auto& path : protocol->paths()) {
    Embeddings embeddings = read_embeddings(path);
    if (embeddings.identities.empty() && are_paths(embeddings.names))
      embeddings.identities = folders_of(embeddings.names);
    contents.push_back(
        {path, embeddings.rows.size(0), embeddings.names, embeddings.identities, {}, {}});
    rows.push_back(embeddings.rows);
  }
  const auto used = protocol->prepare(std::move(contents));
  for (size_t k = 0; k < used.size(); ++k)
    if (!used[k].empty()) rows[k] = rows[k].index_select(0, at::tensor(used[k], at::kLong));
  return protocol->evaluate(rows, comm);
}

std::string source_of_path(const std::string& path, bool labelled) {
  if (!fs::is_directory(path)) return path;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.path().extension() == ".h5") return path;
  return (labelled ? "folder:" : "images:") + path;
}

}  // namespace facetrain
