// The sources `folder` and `list`: image files as they lie on the disk, for sets that nobody
// packed.
#include <ATen/ATen.h>

#include <algorithm>
#include <mutex>

#include "core/log.h"
#include "data/file_list.h"
#include "data/fit.h"
#include "data/source.h"

namespace facetrain {
namespace {

struct FileSourceOptions {
  std::string path;
  int64_t memory = 1024;
  void fields(auto& f) {
    f("path", path, "folder or list file");
    f("memory", memory, at_least(0),
      "MiB: encoded images stay in memory once read when all of them fit into this");
  }
};

// Encoded bytes are kept after the first read when the whole set is small enough.
class FileSource : public Source {
 public:
  FileSource(FileList list, const FileSourceOptions& options, const ImageOptions& images)
      : list_(std::move(list)), images_(images) {
    int64_t bytes = 0;
    for (const auto& item : list_.items) {
      bytes += item.bytes;
      identities_ = std::max(identities_, item.identity + 1);
    }
    if (bytes <= options.memory << 20) kept_.resize(list_.items.size());
    for (const std::string& warning : list_.warnings) log_warn("{}", warning);
  }

  int64_t size() const override { return static_cast<int64_t>(list_.items.size()); }
  int64_t identities() const override { return identities_; }
  int64_t identity(int64_t index) const override { return item(index).identity; }
  std::string name() const override { return list_.name; }
  std::string key(int64_t index) const override { return item(index).key; }
  std::string describe(int64_t index) const override {
    return fmt::format("set '{}', sample {}: '{}'", list_.name, index,
                       list_.file(item(index)).string());
  }
  std::vector<Column> columns() const override {
    if (identities_ == 0) return {};
    return {standard_column("identity")};
  }

  Sample read(int64_t index) const override { return read_into(index, {}); }
  Sample read_into(int64_t index, const at::Tensor& room) const override {
    Sample sample;
    sample.index = index;
    try {
      Placement placement;
      sample.fields["image"] = decode_fitted(*bytes(index), images_, room, placement);
    } catch (const Error& error) {
      FT_FAIL("{}: {}", describe(index), error.what());
    }
    if (identities_ > 0) sample.fields["identity"] = at::scalar_tensor(identity(index), at::kLong);
    return sample;
  }

 private:
  using Bytes = std::shared_ptr<const std::vector<uint8_t>>;

  const FileList::Item& item(int64_t index) const {
    FT_CHECK(index >= 0 && index < size(), "set '{}' has {} samples, wanted number {}", list_.name,
             size(), index);
    return list_.items[static_cast<size_t>(index)];
  }
  Bytes bytes(int64_t index) const {
    const FileList::Item& file = item(index);
    if (!kept_.empty()) {
      const std::lock_guard lock(mutex_);
      if (kept_[static_cast<size_t>(index)]) return kept_[static_cast<size_t>(index)];
    }
    auto read = std::make_shared<const std::vector<uint8_t>>(read_bytes(list_.file(file)));
    if (!kept_.empty()) {
      const std::lock_guard lock(mutex_);
      kept_[static_cast<size_t>(index)] = read;
    }
    return read;
  }

  FileList list_;
  ImageOptions images_;
  int64_t identities_ = 0;
  mutable std::mutex mutex_;
  mutable std::vector<Bytes> kept_;  // a cache: what is read is the same with and without it
};

class FolderSource final : public FileSource {
 public:
  FolderSource(const FileSourceOptions& options, const ImageOptions& images)
      : FileSource(list_folder(options.path), options, images) {}
};

class ListSource final : public FileSource {
 public:
  ListSource(const FileSourceOptions& options, const ImageOptions& images)
      : FileSource(read_list(options.path), options, images) {}
};

const bool folder_registered = Sources::get().add<FolderSource, FileSourceOptions>(
    "folder", "image files in one folder an identity (JPEG, PNG, PGM, PPM)");
const bool list_registered = Sources::get().add<ListSource, FileSourceOptions>(
    "list", "image files named by a list file, lines path<TAB>label");

}  // namespace
}  // namespace facetrain
