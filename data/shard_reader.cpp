#include "data/shard_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"
#include "core/hdf5.h"
#include "data/crc32c.h"

namespace facetrain {
namespace {

std::vector<std::string> split_lines(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

template <class T>
std::vector<T> read_vector(hid_t parent, const std::string& name, hid_t type) {
  const Hdf5Array array = open_array(parent, name, type);
  FT_CHECK(array.shape.size() == 1, "data set '{}': wanted one dimension, found {}", name,
           array.shape.size());
  std::vector<T> values(static_cast<size_t>(array.elements()));
  read_array(array, type, values.data());
  return values;
}

// N + 1 offsets that never fall and end at the last byte.
void check_offsets(const std::vector<uint64_t>& offset, int64_t records, uint64_t bytes,
                   const std::string& name) {
  FT_CHECK(static_cast<int64_t>(offset.size()) == records + 1 && offset.front() == 0 &&
               offset.back() == bytes && std::is_sorted(offset.begin(), offset.end()),
           "'{}' must be {} rising numbers from 0 to {}: the file is damaged", name, records + 1,
           bytes);
}

template <class T>
std::span<const uint8_t> as_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

Hdf5Handle open_file(const std::filesystem::path& file) {
  const Hdf5Handle plan(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "file access");
  hdf5_check(H5Pset_file_locking(plan, false, true), "file locking");
  return {H5Fopen(file.c_str(), H5F_ACC_RDONLY, plan), H5Fclose,
          "not a shard, or damaged (truncated copy?)"};
}

int64_t check_header(hid_t root, int64_t length) {
  FT_CHECK(has_attribute(root, "format") && read_string_attribute(root, "format") == kShardFormat,
           "an HDF5 file, but not a shard: wanted the attribute format = '{}'; make shards with "
           "`facetrain shards pack`",
           kShardFormat);
  const int64_t version = read_int_attribute(root, "version");
  FT_CHECK(version >= 1 && version <= kShardVersion,
           "shard of format version {}, this program reads versions up to {}: use a newer "
           "facetrain, or pack the set again with this one",
           version, kShardVersion);
  const int64_t wanted = read_int_attribute(root, "file_length");
  FT_CHECK(wanted == length,
           "the file has {} bytes, it was written with {}: it is truncated or damaged, copy it "
           "again",
           length, wanted);
  return version;
}

Column read_description(hid_t object, const std::string& name) {
  Column column;
  column.name = name;
  column.type = parse_column_type(read_string_attribute(object, "type"));
  column.unit = read_string_attribute(object, "unit");
  column.convention = read_string_attribute(object, "convention");
  column.classes = split_lines(read_string_attribute(object, "classes"));
  return column;
}

Hdf5Handle open_object(hid_t parent, const std::string& name) {
  return {H5Oopen(parent, name.c_str(), H5P_DEFAULT), H5Oclose, "label column '" + name + "'"};
}

}  // namespace

ShardReader::ShardReader(std::filesystem::path file,
                         const std::optional<std::vector<std::string>>& columns)
    : file_(std::move(file)), all_columns_(!columns) {
  try {
    open(columns);
  } catch (const Error& error) {
    if (descriptor_ >= 0) ::close(descriptor_);
    FT_FAIL("shard '{}': {}", file_.string(), error.what());
  }
}

ShardReader::~ShardReader() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void ShardReader::open(const std::optional<std::vector<std::string>>& wanted) {
  descriptor_ = ::open(file_.c_str(), O_RDONLY | O_CLOEXEC);
  FT_CHECK(descriptor_ >= 0, "cannot open it: {}", std::strerror(errno));
  struct stat status {};
  FT_CHECK(fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode), "not a regular file");
  const int64_t length = status.st_size;

  const std::lock_guard lock(hdf5_mutex());
  const Hdf5Handle root = open_file(file_);
  version_ = check_header(root, length);
  records_ = read_int_attribute(root, "records");
  header_ = {read_string_attribute(root, "set"), read_string_attribute(root, "set_fingerprint"),
             read_int_attribute(root, "shard_index"), read_int_attribute(root, "shard_count")};
  content_crc_ = read_int_attribute(root, "content_crc32c");
  FT_CHECK(records_ > 0 && header_.index >= 0 && header_.index < header_.count,
           "{} records, shard {} of {}: the header is damaged", records_, header_.index,
           header_.count);

  const Hdf5Array images = open_array(root, "images/bytes", H5T_STD_U8LE);
  const haddr_t begin = H5Dget_offset(images.dataset);
  FT_CHECK(images.shape.size() == 1 && begin != HADDR_UNDEF &&
               begin + static_cast<uint64_t>(images.shape[0]) <= static_cast<uint64_t>(length),
           "'images/bytes' must be one contiguous run of bytes inside the file");
  images_begin_ = begin;
  offset_ = read_vector<uint64_t>(root, "images/offset", H5T_STD_U64LE);
  check_offsets(offset_, records_, static_cast<uint64_t>(images.shape[0]), "images/offset");
  crc_ = read_vector<uint32_t>(root, "images/crc32c", H5T_STD_U32LE);
  presence_ = read_vector<uint64_t>(root, "presence", H5T_STD_U64LE);
  FT_CHECK(static_cast<int64_t>(crc_.size()) == records_ &&
               static_cast<int64_t>(presence_.size()) == records_,
           "wanted {} checksums and presence words, found {} and {}", records_, crc_.size(),
           presence_.size());

  const Hdf5Handle presence = open_object(root, "presence");
  const auto names = split_lines(read_string_attribute(presence, "columns"));
  FT_CHECK(names.size() <= 64, "{} label columns: wanted at most 64", names.size());
  const Hdf5Handle labels(H5Gopen2(root, "labels", H5P_DEFAULT), H5Gclose, "group 'labels'");
  for (size_t bit = 0; bit < names.size(); ++bit) {
    if (wanted && std::find(wanted->begin(), wanted->end(), names[bit]) == wanted->end()) continue;
    const Hdf5Handle object = open_object(labels, names[bit]);
    Column column = read_description(object, names[bit]);
    Values values;
    values.bit = static_cast<int64_t>(bit);
    if (column.variable()) {
      values.bytes = read_vector<uint8_t>(object, "bytes", H5T_STD_U8LE);
      values.offset = read_vector<uint64_t>(object, "offset", H5T_STD_U64LE);
      check_offsets(values.offset, records_, values.bytes.size(), names[bit] + "/offset");
    } else {
      const Hdf5Array array = open_array(labels, names[bit], shard_file_type(column.type));
      FT_CHECK(array.shape[0] == records_, "label column '{}': wanted {} rows, found {}",
               names[bit], records_, array.shape[0]);
      column.shape.assign(array.shape.begin() + 1, array.shape.end());
      values.bytes.resize(static_cast<size_t>(records_ * column.record_size()));
      read_array(array, shard_file_type(column.type), values.bytes.data());
    }
    column.complete = std::all_of(presence_.begin(), presence_.end(),
                                  [bit](uint64_t word) { return (word >> bit & 1) != 0; });
    columns_.push_back(std::move(column));
    values_.push_back(std::move(values));
  }
}

std::string ShardReader::error_place(int64_t record) const {
  return fmt::format("set '{}', shard '{}', sample {}", header_.set, file_.string(), record);
}

int64_t ShardReader::image_size(int64_t record) const {
  FT_CHECK(record >= 0 && record < records_, "{}: the shard has {} samples", error_place(record),
           records_);
  return static_cast<int64_t>(offset_[record + 1] - offset_[record]);
}

void ShardReader::read_image(int64_t record, std::vector<uint8_t>& bytes) const {
  bytes.resize(static_cast<size_t>(image_size(record)));
  const uint64_t begin = images_begin_ + offset_[record];
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t count = pread(descriptor_, bytes.data() + done, bytes.size() - done,
                                static_cast<off_t>(begin + done));
    if (count < 0 && errno == EINTR) continue;
    FT_CHECK(count > 0, "{}: cannot read its {} bytes: {}", error_place(record), bytes.size(),
             count < 0 ? std::strerror(errno) : "the file became shorter");
    done += static_cast<size_t>(count);
  }
  const uint32_t found = crc32c(bytes);
  FT_CHECK(found == crc_[record],
           "{}: wrong checksum (crc32c {:08x}, written as {:08x}): the file is damaged, copy it "
           "again or set data.corrupt=skip",
           error_place(record), found, crc_[record]);
}

std::optional<size_t> ShardReader::find(std::string_view column) const {
  for (size_t c = 0; c < columns_.size(); ++c) {
    if (columns_[c].name == column) return c;
  }
  return std::nullopt;
}

bool ShardReader::has(size_t column, int64_t record) const {
  return (presence_[record] >> values_[column].bit & 1) != 0;
}

std::span<const uint8_t> ShardReader::value(size_t column, int64_t record) const {
  const Values& values = values_[column];
  const std::span<const uint8_t> all(values.bytes);
  if (columns_[column].variable())
    return all.subspan(values.offset[record], values.offset[record + 1] - values.offset[record]);
  const auto size = static_cast<size_t>(columns_[column].record_size());
  return all.subspan(static_cast<size_t>(record) * size, size);
}

void ShardReader::verify_content() const {
  if (!all_columns_) return ShardReader(file_).verify_content();
  uint32_t crc = 0;
  std::vector<uint8_t> bytes(1 << 20);
  for (uint64_t done = 0; done < offset_.back();) {
    const auto wanted = std::min<uint64_t>(bytes.size(), offset_.back() - done);
    const ssize_t count =
        pread(descriptor_, bytes.data(), wanted, static_cast<off_t>(images_begin_ + done));
    if (count < 0 && errno == EINTR) continue;
    FT_CHECK(count > 0, "shard '{}': cannot read it: {}", file_.string(),
             count < 0 ? std::strerror(errno) : "the file became shorter");
    crc = crc32c(std::span<const uint8_t>(bytes).first(static_cast<size_t>(count)), crc);
    done += static_cast<uint64_t>(count);
  }
  crc = crc32c(as_bytes(offset_), crc);
  crc = crc32c(as_bytes(crc_), crc);
  crc = crc32c(as_bytes(presence_), crc);
  for (size_t c = 0; c < columns_.size(); ++c) {
    crc = crc32c(values_[c].bytes, crc);
    if (columns_[c].variable()) crc = crc32c(as_bytes(values_[c].offset), crc);
  }
  FT_CHECK(int64_t{crc} == content_crc_,
           "shard '{}': wrong checksum of the whole content (crc32c {:08x}, written as {:08x}): "
           "the file is damaged, copy or pack it again",
           file_.string(), crc, content_crc_);
}

}  // namespace facetrain
