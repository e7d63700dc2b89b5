// Reads one shard: HDF5 once at opening, then plain reads of the file from any thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/column.h"
#include "data/shard_format.h"

namespace facetrain {

// Opening checks format, version, length of the file, every shape and every offset; each read
// checks the image's own crc32c. Foreign, truncated, damaged and future files are Errors that name
// the file. Immutable after opening.
class ShardReader {
 public:
  // `columns`: which label columns to load into memory, by name; none given: all.
  explicit ShardReader(std::filesystem::path file,
                       const std::optional<std::vector<std::string>>& columns = {});
  ~ShardReader();
  ShardReader(const ShardReader&) = delete;
  ShardReader& operator=(const ShardReader&) = delete;

  const std::filesystem::path& file() const { return file_; }
  const ShardHeader& header() const { return header_; }
  int64_t size() const { return records_; }
  int64_t version() const { return version_; }

  // The encoded image of a record into `bytes` (resized). Throws on a read error or a wrong
  // checksum.
  void read_image(int64_t record, std::vector<uint8_t>& bytes) const;
  int64_t image_size(int64_t record) const;  // encoded bytes

  // The loaded columns in the order of their presence bits; `complete` says whether every record
  // has one.
  const std::vector<Column>& columns() const { return columns_; }
  std::optional<size_t> find(std::string_view column) const;  // index in columns()
  bool has(size_t column, int64_t record) const;
  // Little-endian bytes of one value; the missing value's where the record has none.
  std::span<const uint8_t> value(size_t column, int64_t record) const;

  // Reads the whole file and compares the checksum of the content. Throws on a difference. Loads
  // all columns anew.
  void verify_content() const;

 private:
  struct Values {
    std::vector<uint8_t> bytes;
    std::vector<uint64_t> offset;  // of variable columns
    int64_t bit = 0;
  };
  void open(const std::optional<std::vector<std::string>>& columns);
  std::string error_place(int64_t record) const;

  std::filesystem::path file_;
  ShardHeader header_;
  int64_t version_ = 0, records_ = 0, content_crc_ = 0;
  int descriptor_ = -1;
  uint64_t images_begin_ = 0;  // of images/bytes in the file
  std::vector<uint64_t> offset_;
  std::vector<uint32_t> crc_;
  std::vector<uint64_t> presence_;
  std::vector<Column> columns_;
  std::vector<Values> values_;
  bool all_columns_ = true;
};

}  // namespace facetrain
