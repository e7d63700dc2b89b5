// Writes the shards of one set, several at a time, and goes on where an earlier run stopped.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "data/column.h"
#include "data/shard_format.h"

namespace facetrain {

struct ShardSetPlan {
  std::filesystem::path out;  // folder of the shards, made when absent
  std::string set;            // name of the set; files are <set>-00000.h5 ...
  std::string fingerprint;    // of everything that the shards' bytes depend on
  std::vector<Column> columns;
  std::vector<int64_t> begin;  // [shards + 1]: shard s holds records begin[s] ... begin[s + 1] - 1
  int64_t jobs = 1;            // threads, a shard each: as many shards are in memory
  std::function<ShardRecord(int64_t)> record;  // any thread
  // The image of a record as record() gives it, for less: kept shards are compared with it. Empty:
  // the fingerprint covers the images. Any thread.
  std::function<std::vector<uint8_t>(int64_t)> image;
  std::function<void(int64_t done, int64_t total)> progress;  // records; any thread, one at a time
};

struct ShardSetResult {
  int64_t shards = 0, kept = 0;  // in all; of them found complete and not written again
  int64_t records = 0, bytes = 0;
};

// The files are the same bytes for any number of jobs and after any interruption: finished shards
// are kept, what an interruption left half done is done again. Throws when the folder holds shards
// of another set or of images that have changed since, and on the first failure.
ShardSetResult write_shard_set(const ShardSetPlan& plan);

// Cuts records of these lengths into shards of at most `images` records (0: any number) that end
// once they have `bytes`.
std::vector<int64_t> cut_shards(const std::vector<int64_t>& lengths, int64_t images, int64_t bytes);

// Sixteen hexadecimal digits of a key.
std::string to_fingerprint(uint64_t key);

}  // namespace facetrain
