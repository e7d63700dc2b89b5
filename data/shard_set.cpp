#include "data/shard_set.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "core/check.h"
#include "data/shard_reader.h"
#include "data/shard_writer.h"

namespace facetrain {
namespace {

namespace fs = std::filesystem;

fs::path shard_file(const ShardSetPlan& plan, int64_t shard) {
  return plan.out / fmt::format("{}-{:05}{}", plan.set, shard, kShardExtension);
}

int64_t shard_count(const ShardSetPlan& plan) {
  return static_cast<int64_t>(plan.begin.size()) - 1;
}

// The shards that an earlier run of the same plan finished.
std::set<int64_t> find_finished(const ShardSetPlan& plan) {
  std::set<int64_t> finished;
  for (const auto& entry : fs::directory_iterator(plan.out)) {
    if (entry.path().extension() != kShardExtension) continue;
    const ShardReader shard(entry.path(), std::vector<std::string>{});
    const ShardHeader& header = shard.header();
    FT_CHECK(header.fingerprint == plan.fingerprint && header.count == shard_count(plan) &&
                 entry.path() == shard_file(plan, header.index),
             "'{}' holds another set ('{}' is shard {} of {} of set '{}', made of other images or "
             "options): choose an empty folder for --out",
             plan.out.string(), entry.path().filename().string(), header.index, header.count,
             header.set);
    const int64_t records = plan.begin[header.index + 1] - plan.begin[header.index];
    FT_CHECK(shard.size() == records, "'{}' has {} records, wanted {}: remove it and run again",
             entry.path().string(), shard.size(), records);
    finished.insert(header.index);
  }
  return finished;
}

// Counts what is done, over all threads.
class Progress {
 public:
  explicit Progress(const ShardSetPlan& plan) : plan_(plan) {}
  void add(int64_t records) {
    const std::lock_guard lock(mutex_);
    done_ += records;
    if (plan_.progress) plan_.progress(done_, plan_.begin.back());
  }

 private:
  const ShardSetPlan& plan_;
  std::mutex mutex_;
  int64_t done_ = 0;
};

void write_shard(const ShardSetPlan& plan, int64_t shard, Progress& progress,
                 const std::atomic<bool>& stop) {
  ShardWriter writer(shard_file(plan, shard),
                     {plan.set, plan.fingerprint, shard, shard_count(plan)}, plan.columns);
  for (int64_t i = plan.begin[shard]; i < plan.begin[shard + 1]; ++i) {
    if (stop) return;
    writer.add(plan.record(i));
    progress.add(1);
  }
  writer.finish();
}

void check_unchanged(const ShardSetPlan& plan, int64_t shard) {
  if (!plan.image) return;
  const ShardReader reader(shard_file(plan, shard), std::vector<std::string>{});
  std::vector<uint8_t> stored;
  for (int64_t i = 0; i < reader.size(); ++i) {
    reader.read_image(i, stored);
    FT_CHECK(stored == plan.image(plan.begin[shard] + i),
             "'{}', sample {}: this finished shard was made of another version of the image; "
             "remove the shard, or choose an empty folder for --out, and run again",
             reader.file().string(), i);
  }
}

}  // namespace

ShardSetResult write_shard_set(const ShardSetPlan& plan) {
  const int64_t shards = shard_count(plan);
  FT_CHECK(shards >= 1 && plan.jobs >= 1, "wanted at least one shard and one job, found {} and {}",
           shards, plan.jobs);
  std::error_code failure;
  fs::create_directories(plan.out, failure);
  FT_CHECK(fs::is_directory(plan.out), "cannot make the folder '{}': {}", plan.out.string(),
           failure ? failure.message() : "a file of that name is in the way");
  const std::set<int64_t> finished = find_finished(plan);
  Progress progress(plan);
  for (const int64_t shard : finished) progress.add(plan.begin[shard + 1] - plan.begin[shard]);

  std::atomic<int64_t> next{0};
  std::atomic<bool> stop{false};
  std::vector<std::exception_ptr> errors(static_cast<size_t>(shards));
  const auto work = [&] {
    for (int64_t shard = next++; shard < shards && !stop; shard = next++) {
      try {
        if (finished.contains(shard))
          check_unchanged(plan, shard);
        else
          write_shard(plan, shard, progress, stop);
      } catch (...) {
        errors[static_cast<size_t>(shard)] = std::current_exception();
        stop = true;
      }
    }
  };
  std::vector<std::thread> threads;
  for (int64_t job = 1; job < std::min(plan.jobs, shards); ++job) threads.emplace_back(work);
  work();
  for (auto& thread : threads) thread.join();
  for (const auto& error : errors)
    if (error) std::rethrow_exception(error);

  ShardSetResult result{shards, static_cast<int64_t>(finished.size()), plan.begin.back(), 0};
  for (int64_t shard = 0; shard < shards; ++shard)
    result.bytes += static_cast<int64_t>(fs::file_size(shard_file(plan, shard)));
  return result;
}

std::vector<int64_t> cut_shards(const std::vector<int64_t>& lengths, int64_t images,
                                int64_t bytes) {
  std::vector<int64_t> begin{0};
  int64_t sum = 0;
  for (size_t i = 0; i < lengths.size(); ++i) {
    const auto at = static_cast<int64_t>(i);
    const bool full = at > begin.back() &&
                      ((images > 0 && at - begin.back() >= images) || (bytes > 0 && sum >= bytes));
    if (full) {
      begin.push_back(at);
      sum = 0;
    }
    sum += lengths[i];
  }
  begin.push_back(static_cast<int64_t>(lengths.size()));
  return begin;
}

std::string to_fingerprint(uint64_t key) { return fmt::format("{:016x}", key); }

}  // namespace facetrain
