// The source `shards`: a folder of *.h5 that make up one set, or one such file.
#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "data/file_list.h"
#include "data/fit.h"
#include "data/shard_reader.h"
#include "data/source.h"

namespace facetrain {
namespace {

namespace fs = std::filesystem;

struct ShardSourceOptions {
  std::string path;
  void fields(auto& f) { f("path", path, "folder of *.h5, or one shard"); }
};

std::vector<fs::path> shard_files(const fs::path& path) {
  check_exists(path);
  if (!fs::is_directory(path)) return {path};
  std::vector<fs::path> files;
  bool other = false;
  for (const auto& entry : fs::directory_iterator(path)) {
    const std::string file = entry.path().filename().string();
    if (file.starts_with(".")) continue;
    if (entry.path().extension() == kShardExtension)
      files.push_back(entry.path());
    else
      other = other || entry.is_directory() || entry.path().extension() != ".tmp";
  }
  FT_CHECK(
      !files.empty(), "'{}' has no shard (*.h5){}", path.string(),
      other ? fmt::format(": for image files write folder:{}, or pack them with `facetrain shards "
                          "pack --out DIR {}`",
                          path.string(), path.string())
            : ": make some with `facetrain shards pack` or `facetrain shards synth`");
  std::sort(files.begin(), files.end());
  return files;
}

// All shards of a folder are of one set, each there once.
void check_set(const std::vector<std::unique_ptr<ShardReader>>& shards, const fs::path& path) {
  const ShardHeader& first = shards.front()->header();
  std::vector<bool> seen(static_cast<size_t>(std::min<int64_t>(first.count, 1 << 24)), false);
  for (const auto& shard : shards) {
    const ShardHeader& header = shard->header();
    FT_CHECK(header.fingerprint == first.fingerprint && header.count == first.count,
             "'{}' mixes two sets: '{}' is of set '{}', '{}' of set '{}' ({} and {} shards): give "
             "each set a folder of its own",
             path.string(), shards.front()->file().filename().string(), first.set,
             shard->file().filename().string(), header.set, first.count, header.count);
    FT_CHECK(!seen[static_cast<size_t>(header.index)], "'{}' has shard {} twice", path.string(),
             header.index);
    seen[static_cast<size_t>(header.index)] = true;
  }
  const auto missing = std::find(seen.begin(), seen.end(), false);
  FT_CHECK(missing == seen.end(),
           "'{}' has {} of the {} shards of its set, number {} is missing: run the same `facetrain "
           "shards` command again, it goes on where it stopped",
           path.string(), shards.size(), first.count, missing - seen.begin());
}

// One description of each column for the whole set: complete only where every shard says so.
std::vector<Column> merge_columns(const std::vector<std::unique_ptr<ShardReader>>& shards) {
  std::vector<Column> columns = shards.front()->columns();
  for (const auto& shard : shards) {
    FT_CHECK(shard->columns().size() == columns.size(),
             "shard '{}' has {} label columns, '{}' has {}: they are not of one set",
             shard->file().string(), shard->columns().size(), shards.front()->file().string(),
             columns.size());
    for (size_t c = 0; c < columns.size(); ++c) {
      const Column& other = shard->columns()[c];
      FT_CHECK(other.name == columns[c].name && other.type == columns[c].type &&
                   other.shape == columns[c].shape,
               "shard '{}': label column '{}' differs from the '{}' of '{}' in name, type or shape",
               shard->file().string(), other.name, columns[c].name,
               shards.front()->file().string());
      columns[c].complete = columns[c].complete && other.complete;
    }
  }
  return columns;
}

class ShardSource final : public Source {
 public:
  ShardSource(const ShardSourceOptions& options, const ImageOptions& images) : images_(images) {
    std::optional<std::vector<std::string>> wanted = images.columns;
    if (wanted) wanted->emplace_back("identity");
    for (const fs::path& file : shard_files(options.path)) {
      shards_.push_back(std::make_unique<ShardReader>(file, wanted));
      first_.push_back(size_);
      size_ += shards_.back()->size();
    }
    if (fs::is_directory(options.path)) check_set(shards_, options.path);
    columns_ = merge_columns(shards_);
    identity_ = shards_.front()->find("identity");
    if (identity_) find_identities();
  }

  int64_t size() const override { return size_; }
  int64_t identities() const override { return identities_; }
  int64_t identity(int64_t index) const override {
    if (!identity_) return -1;
    const auto [shard, record] = locate(index);
    return number(*shard, record);
  }
  std::string name() const override { return shards_.front()->header().set; }
  std::string describe(int64_t index) const override {
    const auto [shard, record] = locate(index);
    return fmt::format("set '{}', shard '{}', sample {}", name(), shard->file().string(), record);
  }
  std::string key(int64_t index) const override {
    const auto [shard, record] = locate(index);
    const auto column = shard->find("name");
    if (!column || !shard->has(*column, record))
      return fmt::format("{}#{}", shard->file().filename().string(), record);
    const auto text = shard->value(*column, record);
    return {text.begin(), text.end()};
  }
  std::vector<Column> columns() const override {
    std::vector<Column> fields;
    for (const Column& column : columns_)
      if (column.type != ColumnType::kText) fields.push_back(column);
    return fields;
  }

  Sample read(int64_t index) const override { return read_into(index, {}); }
  Sample read_into(int64_t index, const at::Tensor& room) const override {
    const auto [shard, record] = locate(index);
    thread_local std::vector<uint8_t> bytes;
    shard->read_image(record, bytes);
    Sample sample;
    sample.index = index;
    try {
      Placement placement;
      sample.fields["image"] = decode_fitted(bytes, images_, room, placement);
      for (size_t c = 0; c < columns_.size(); ++c) {
        if (columns_[c].type == ColumnType::kText || !shard->has(c, record)) continue;
        sample.fields[columns_[c].name] = label(*shard, c, record, placement);
      }
    } catch (const Error& error) {
      FT_FAIL("{}: {}", describe(index), error.what());
    }
    return sample;
  }

 private:
  std::pair<const ShardReader*, int64_t> locate(int64_t index) const {
    FT_CHECK(index >= 0 && index < size_, "set '{}' has {} samples, wanted number {}", name(),
             size_, index);
    const auto after = std::upper_bound(first_.begin(), first_.end(), index);
    const auto shard = static_cast<size_t>(after - first_.begin()) - 1;
    return {shards_[shard].get(), index - first_[shard]};
  }
  int64_t number(const ShardReader& shard, int64_t record) const {
    int64_t identity = -1;
    if (shard.has(*identity_, record))
      std::memcpy(&identity, shard.value(*identity_, record).data(), sizeof(identity));
    return identity;
  }
  void find_identities() {
    const Column& column = columns_[*identity_];
    FT_CHECK(column.type == ColumnType::kInt64 && column.shape.empty(),
             "set '{}': the label column 'identity' must hold one int64 a record", name());
    for (int64_t i = 0; i < size_; ++i) {
      const auto [shard, record] = locate(i);
      const int64_t identity = number(*shard, record);
      FT_CHECK(identity >= -1 && identity < std::numeric_limits<int32_t>::max(),
               "{}: wanted an identity from 0 to 2^31 - 2, found {}", describe(i), identity);
      identities_ = std::max(identities_, identity + 1);
    }
  }
  at::Tensor label(const ShardReader& shard, size_t c, int64_t record,
                   const Placement& placement) const {
    const Column& column = columns_[c];
    const auto bytes = shard.value(c, record);
    if (column.type == ColumnType::kPng) return decode_fitted_mask(bytes, placement);
    at::Tensor values = at::empty(column.shape, scalar_type(column.type));
    if (!bytes.empty()) std::memcpy(values.mutable_data_ptr(), bytes.data(), bytes.size());
    if (column.unit == "pixels" && column.type == ColumnType::kFloat32 && !column.shape.empty() &&
        column.shape.back() == 2)
      move_points(values, placement);
    return values;
  }

  ImageOptions images_;
  std::vector<std::unique_ptr<ShardReader>> shards_;
  std::vector<int64_t> first_;  // index of each shard's first sample
  std::vector<Column> columns_;
  std::optional<size_t> identity_;
  int64_t size_ = 0, identities_ = 0;
};

const bool registered = Sources::get().add<ShardSource, ShardSourceOptions>(
    "shards", "HDF5 shards (*.h5) of `facetrain shards`: a folder, or one file");

}  // namespace
}  // namespace facetrain
