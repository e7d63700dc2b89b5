// The sources `folder`, `list` and `images`: image files as they lie on the disk, for sets that
// nobody packed.
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
  void fields(auto& f) { f("path", path, "folder or list file"); }
};

// Encoded bytes are kept after the first read when the whole set is no larger than this.
constexpr int64_t kKeptBytes = int64_t{1} << 30;

class FileSource : public Source {
 public:
  FileSource(FileList list, const ImageOptions& images) : list_(std::move(list)), images_(images) {
    int64_t bytes = 0;
    for (const auto& item : list_.items) {
      bytes += item.bytes;
      identities_ = std::max(identities_, item.identity + 1);
    }
    if (bytes <= kKeptBytes) kept_.resize(list_.items.size());
    if (log_rank() == 0)  // all ranks see the same files
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
      : FileSource(list_folder(options.path), images) {}
};

class ImagesSource final : public FileSource {
 public:
  ImagesSource(const FileSourceOptions& options, const ImageOptions& images)
      : FileSource(list_images(options.path), images) {}
};

// Labels become classes where the identity is asked for; eval and embed take any.
FileList read_classes(const std::string& file, const ImageOptions& images) {
  FileList list = read_list(file);
  const bool classes = !images.columns || std::ranges::count(*images.columns, "identity") > 0;
  const std::string gaps = classes ? list_gaps(list) : "";
  FT_CHECK(gaps.empty(),
           "{}: wanted labels 0, 1, 2 ... with an image each, found none of: {}; number them "
           "without gaps (or `facetrain shards pack --allow-gaps`)",
           file, gaps);
  return list;
}

class ListSource final : public FileSource {
 public:
  ListSource(const FileSourceOptions& options, const ImageOptions& images)
      : FileSource(read_classes(options.path, images), images) {}
};

const bool folder_registered = Sources::get().add<FolderSource, FileSourceOptions>(
    "folder", "image files in one folder an identity (JPEG, PNG, PGM, PPM)");
const bool images_registered = Sources::get().add<ImagesSource, FileSourceOptions>(
    "images", "every image file below a folder in the order of the paths, without identities");
const bool list_registered = Sources::get().add<ListSource, FileSourceOptions>(
    "list", "image files named by a list file, lines path<TAB>label");

}  // namespace
}  // namespace facetrain
