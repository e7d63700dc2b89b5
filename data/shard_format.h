// The shard format, version 1: names of what stands in the HDF5 file. docs/formats.md specifies it
// byte by byte.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/column.h"

namespace facetrain {

inline constexpr const char* kShardFormat = "facetrain shard";
inline constexpr int64_t kShardVersion = 1;  // a reader refuses a higher one
inline constexpr const char* kShardExtension = ".h5";
inline constexpr int64_t kShardAlignment = 4096;  // of images/bytes in the file
// The HDF5 type (a hid_t) that a column has in the file.
int64_t shard_file_type(ColumnType type);

// What a shard says of the set that it is a part of.
struct ShardHeader {
  std::string set;          // name of the set
  std::string fingerprint;  // equal in all shards of one set, different between sets
  int64_t index = 0;        // of this shard, from 0
  int64_t count = 1;        // shards of the set
};

// One image with its labels: encoded bytes, and the little-endian bytes of each column that it has.
struct ShardRecord {
  std::vector<uint8_t> image;  // JPEG or PNG
  std::map<std::string, std::vector<uint8_t>> labels;

  template <class T>
  void set(const std::string& column, std::span<const T> values) {
    const auto bytes = std::as_bytes(values);
    const auto* first = reinterpret_cast<const uint8_t*>(bytes.data());
    labels[column].assign(first, first + bytes.size());
  }
  template <class T>
  void set(const std::string& column, T value) {
    set(column, std::span<const T>(&value, 1));
  }
};

}  // namespace facetrain
