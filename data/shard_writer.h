// Writes one shard. It has its final name only when it is complete and on the disk.
#pragma once

#include <filesystem>
#include <vector>

#include "data/column.h"
#include "data/shard_format.h"

namespace facetrain {

// Keeps the records in memory until finish(): a shard is some 100 MB. The bytes of the file are a
// function of what was added, so equal input gives equal files. Any thread, one at a time; the file
// is written under HDF5's lock.
class ShardWriter {
 public:
  // `columns`: at most 64, no two of one name.
  ShardWriter(std::filesystem::path file, ShardHeader header, std::vector<Column> columns);

  // Throws for a column that was not declared, or whose bytes have another length than its shape
  // says.
  void add(const ShardRecord& record);
  int64_t size() const { return static_cast<int64_t>(crc_.size()); }
  int64_t image_bytes() const { return static_cast<int64_t>(images_.size()); }

  // Writes `<file>.tmp`, flushes it to the disk and renames it. On failure throws and leaves
  // nothing behind.
  void finish();

 private:
  struct Values {
    std::vector<uint8_t> bytes;
    std::vector<uint64_t> offset{0};  // of variable columns
  };
  void append(const Column& column, const std::vector<uint8_t>* value, Values& values);
  void write(const std::filesystem::path& file) const;
  uint32_t checksum() const;

  std::filesystem::path file_;
  ShardHeader header_;
  std::vector<Column> columns_;
  std::vector<Values> values_;
  std::vector<uint8_t> images_;
  std::vector<uint64_t> offset_{0};
  std::vector<uint32_t> crc_;
  std::vector<uint64_t> presence_;
};

}  // namespace facetrain
