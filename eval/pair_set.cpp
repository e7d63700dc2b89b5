#include "eval/pair_set.h"

#include <map>
#include <unordered_map>

#include "core/check.h"

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

// Pairs of the rows of a whole set become pairs of the rows that are used, in order of first use.
PairSet keep_used(std::shared_ptr<const Source> whole, PairList pairs) {
  std::unordered_map<int64_t, int64_t> place;
  std::vector<int64_t> used;
  for (Pair& pair : pairs)
    for (int64_t* row : {&pair.first, &pair.second}) {
      const auto [found, added] = place.try_emplace(*row, static_cast<int64_t>(used.size()));
      if (added) used.push_back(*row);
      *row = found->second;
    }
  return {std::make_shared<Subset>(std::move(whole), std::move(used)), std::move(pairs)};
}

// "Ann/Ann_0001.jpg" -> "Ann/Ann_0001".
std::string without_extension(const std::string& key) {
  return fs::path(key).replace_extension().generic_string();
}

PairList locate(const NamedPairs& named, const Source& source, const fs::path& file) {
  std::map<std::string, int64_t> rows;
  for (int64_t row = 0; row < source.size(); ++row)
    rows.try_emplace(without_extension(source.key(row)), row);
  std::vector<int64_t> row_of(named.images.size());
  for (size_t k = 0; k < named.images.size(); ++k) {
    const auto found = rows.find(named.images[k]);
    FT_CHECK(found != rows.end(),
             "{} asks for the image '{}' (.jpg, .png ...), which is not in '{}' ({} images, the "
             "first is '{}')",
             file.string(), named.images[k], source.name(), source.size(),
             source.size() > 0 ? source.key(0) : "");
    row_of[k] = found->second;
  }
  PairList pairs = named.pairs;
  for (Pair& pair : pairs) {
    pair.first = row_of[static_cast<size_t>(pair.first)];
    pair.second = row_of[static_cast<size_t>(pair.second)];
  }
  return pairs;
}

}  // namespace

std::string source_of_path(const std::string& path) {
  if (!fs::is_directory(path)) return path;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.path().extension() == ".h5") return path;
  return "images:" + path;
}

PairSet open_pair_set(const std::string& images, const fs::path& pairs,
                      const ImageOptions& options) {
  ImageOptions plain = options;
  plain.columns.emplace();  // no labels: pairs say who is who
  auto source = open_source(source_of_path(images), plain);
  PairList list = is_csv_pairs(pairs) ? read_csv_pairs(pairs, source->size())
                                      : locate(read_lfw_pairs(pairs), *source, pairs);
  return keep_used(std::move(source), std::move(list));
}

}  // namespace facetrain
