#include "data/shard_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>

#include "core/check.h"
#include "core/hdf5.h"
#include "data/crc32c.h"

namespace facetrain {
namespace {

namespace fs = std::filesystem;

template <class T>
std::span<const uint8_t> as_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(T)};
}

// Version 1.8 of the file format: every piece of metadata carries a checksum, so damage is an error
// of HDF5 rather than a surprise in it. Data sets of any size are aligned: what is smaller than the
// images is so by accident.
Hdf5Handle access_plan(int64_t image_bytes) {
  Hdf5Handle plan(H5Pcreate(H5P_FILE_ACCESS), H5Pclose, "file access");
  const auto threshold = static_cast<hsize_t>(std::clamp<int64_t>(image_bytes, 1, kShardAlignment));
  hdf5_check(H5Pset_libver_bounds(plan, H5F_LIBVER_V18, H5F_LIBVER_V18), "file format");
  hdf5_check(H5Pset_alignment(plan, threshold, kShardAlignment), "alignment");
  hdf5_check(H5Pset_small_data_block_size(plan, 0), "block size");
  hdf5_check(H5Pset_file_locking(plan, false, true), "file locking");
  return plan;
}

// Groups that keep links and attributes in their own header, without times: equal bytes on every
// run.
void plain_group(hid_t plan) {
  hdf5_check(H5Pset_obj_track_times(plan, false), "times");
  hdf5_check(H5Pset_link_phase_change(plan, 80, 0), "links");
  hdf5_check(H5Pset_attr_phase_change(plan, 32, 0), "attributes");
}

Hdf5Handle make_group(hid_t parent, const std::string& name) {
  const Hdf5Handle plan(H5Pcreate(H5P_GROUP_CREATE), H5Pclose, name);
  plain_group(plan);
  return {H5Gcreate2(parent, name.c_str(), H5P_DEFAULT, plan, H5P_DEFAULT), H5Gclose,
          "group " + name};
}

template <class T>
Hdf5Handle write_vector(hid_t parent, const std::string& name, hid_t type,
                        const std::vector<T>& values) {
  const auto length = static_cast<int64_t>(values.size());
  return write_array(parent, name, type, {&length, 1}, values.empty() ? nullptr : values.data());
}

void describe(hid_t object, const Column& column, int64_t bit) {
  write_attribute(object, "type", to_string(column.type));
  write_attribute(object, "unit", column.unit);
  write_attribute(object, "convention", column.convention);
  write_attribute(object, "classes", fmt::format("{}", fmt::join(column.classes, "\n")));
  write_attribute(object, "presence_bit", bit);
  switch (column.type) {
    case ColumnType::kInt64:
      return write_attribute(object, "missing", kMissingInt);
    case ColumnType::kFloat32:
      return write_attribute(object, "missing", std::numeric_limits<double>::quiet_NaN());
    case ColumnType::kUint8:
      return write_attribute(object, "missing", int64_t{kMissingByte});
    default:
      return write_attribute(object, "missing", std::string());
  }
}

void sync(const fs::path& path, int flags) {
  const int descriptor = open(path.c_str(), flags | O_CLOEXEC);
  FT_CHECK(descriptor >= 0, "cannot open '{}' to flush it: {}", path.string(),
           std::strerror(errno));
  const int result = fsync(descriptor), reason = errno;
  close(descriptor);
  FT_CHECK(result == 0, "cannot flush '{}' to the disk: {}", path.string(), std::strerror(reason));
}

}  // namespace

int64_t shard_file_type(ColumnType type) {
  switch (type) {
    case ColumnType::kInt64:
      return H5T_STD_I64LE;
    case ColumnType::kFloat32:
      return H5T_IEEE_F32LE;
    default:
      return H5T_STD_U8LE;
  }
}

ShardWriter::ShardWriter(fs::path file, ShardHeader header, std::vector<Column> columns)
    : file_(std::move(file)), header_(std::move(header)), columns_(std::move(columns)) {
  FT_CHECK(columns_.size() <= 64, "shard '{}': wanted at most 64 label columns, found {}",
           file_.string(), columns_.size());
  for (size_t i = 0; i < columns_.size(); ++i) {
    for (size_t j = 0; j < i; ++j) {
      FT_CHECK(columns_[i].name != columns_[j].name, "shard '{}': two columns are called '{}'",
               file_.string(), columns_[i].name);
    }
  }
  values_.resize(columns_.size());
}

void ShardWriter::append(const Column& column, const std::vector<uint8_t>* value, Values& values) {
  if (column.variable()) {
    if (value) values.bytes.insert(values.bytes.end(), value->begin(), value->end());
    values.offset.push_back(values.bytes.size());
    return;
  }
  const auto size = static_cast<size_t>(column.record_size());
  if (value) {
    FT_CHECK(value->size() == size, "shard '{}', record {}: column '{}' wants {} bytes, found {}",
             file_.string(), this->size(), column.name, size, value->size());
    values.bytes.insert(values.bytes.end(), value->begin(), value->end());
    return;
  }
  std::vector<uint8_t> missing(size, kMissingByte);  // -1 in any integer type
  if (column.type == ColumnType::kFloat32) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (size_t at = 0; at < size; at += sizeof(nan)) std::memcpy(&missing[at], &nan, sizeof(nan));
  }
  values.bytes.insert(values.bytes.end(), missing.begin(), missing.end());
}

void ShardWriter::add(const ShardRecord& record) {
  FT_CHECK(!record.image.empty(), "shard '{}', record {}: the image has no bytes", file_.string(),
           size());
  uint64_t bits = 0;
  size_t used = 0;
  for (size_t c = 0; c < columns_.size(); ++c) {
    const auto found = record.labels.find(columns_[c].name);
    const bool present = found != record.labels.end();
    append(columns_[c], present ? &found->second : nullptr, values_[c]);
    bits |= uint64_t{present} << c;
    used += present;
  }
  FT_CHECK(used == record.labels.size(),
           "shard '{}', record {}: it has a label that is no column of this set", file_.string(),
           size());
  images_.insert(images_.end(), record.image.begin(), record.image.end());
  offset_.push_back(images_.size());
  crc_.push_back(crc32c(record.image));
  presence_.push_back(bits);
}

uint32_t ShardWriter::checksum() const {
  uint32_t crc = crc32c(images_);
  crc = crc32c(as_bytes(offset_), crc);
  crc = crc32c(as_bytes(crc_), crc);
  crc = crc32c(as_bytes(presence_), crc);
  for (size_t c = 0; c < columns_.size(); ++c) {
    crc = crc32c(values_[c].bytes, crc);
    if (columns_[c].variable()) crc = crc32c(as_bytes(values_[c].offset), crc);
  }
  return crc;
}

void ShardWriter::write(const fs::path& file) const {
  const std::lock_guard lock(hdf5_mutex());
  const Hdf5Handle access = access_plan(image_bytes());
  const Hdf5Handle creation(H5Pcreate(H5P_FILE_CREATE), H5Pclose, "file creation");
  plain_group(creation);
  const Hdf5Handle root(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, creation, access), H5Fclose,
                        "creating the file");
  write_attribute(root, "format", std::string(kShardFormat));
  write_attribute(root, "version", kShardVersion);
  write_attribute(root, "records", size());
  write_attribute(root, "set", header_.set);
  write_attribute(root, "set_fingerprint", header_.fingerprint);
  write_attribute(root, "shard_index", header_.index);
  write_attribute(root, "shard_count", header_.count);
  write_attribute(root, "content_crc32c", int64_t{checksum()});
  write_attribute(root, "file_length", int64_t{0});  // known when the file is closed

  const Hdf5Handle images = make_group(root, "images");
  write_vector(images, "bytes", H5T_STD_U8LE, images_);
  write_vector(images, "offset", H5T_STD_U64LE, offset_);
  write_vector(images, "crc32c", H5T_STD_U32LE, crc_);
  std::vector<std::string> names;
  for (const Column& column : columns_) names.push_back(column.name);
  const Hdf5Handle presence = write_vector(root, "presence", H5T_STD_U64LE, presence_);
  write_attribute(presence, "columns", fmt::format("{}", fmt::join(names, "\n")));

  const Hdf5Handle labels = make_group(root, "labels");
  for (size_t c = 0; c < columns_.size(); ++c) {
    const Column& column = columns_[c];
    if (column.variable()) {
      const Hdf5Handle group = make_group(labels, column.name);
      write_vector(group, "bytes", H5T_STD_U8LE, values_[c].bytes);
      write_vector(group, "offset", H5T_STD_U64LE, values_[c].offset);
      describe(group, column, static_cast<int64_t>(c));
    } else {
      std::vector<int64_t> shape{size()};
      shape.insert(shape.end(), column.shape.begin(), column.shape.end());
      const Hdf5Handle array = write_array(labels, column.name, shard_file_type(column.type), shape,
                                           values_[c].bytes.data());
      describe(array, column, static_cast<int64_t>(c));
    }
  }
}

void ShardWriter::finish() {
  FT_CHECK(size() > 0, "shard '{}': wanted at least one record, found none", file_.string());
  const fs::path temporary = file_.string() + ".tmp";
  try {
    write(temporary);
    const auto length = static_cast<int64_t>(fs::file_size(temporary));
    {
      const std::lock_guard lock(hdf5_mutex());
      const Hdf5Handle access = access_plan(image_bytes());
      const Hdf5Handle root(H5Fopen(temporary.c_str(), H5F_ACC_RDWR, access), H5Fclose,
                            "opening the file again");
      write_attribute(root, "file_length", length);
    }
    FT_CHECK(static_cast<int64_t>(fs::file_size(temporary)) == length,
             "the file changed its length from {} bytes", length);
    sync(temporary, O_RDWR);
    fs::rename(temporary, file_);
    sync(file_.has_parent_path() ? file_.parent_path() : fs::path("."), O_RDONLY | O_DIRECTORY);
  } catch (const std::exception& error) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    FT_FAIL("cannot write shard '{}': {} (is the disk full, or the folder read-only?)",
            file_.string(), error.what());
  }
}

}  // namespace facetrain
