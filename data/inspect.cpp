#include "data/inspect.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <thread>

#include "core/check.h"
#include "data/file_list.h"
#include "data/image_codec.h"
#include "data/shard_reader.h"

namespace facetrain {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_of(const fs::path& path) {
  check_exists(path);
  if (!fs::is_directory(path)) return {path};
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(path))
    if (entry.path().extension() == kShardExtension) files.push_back(entry.path());
  FT_CHECK(!files.empty(), "'{}' has no shard (*.h5)", path.string());
  std::sort(files.begin(), files.end());
  return files;
}

template <class T>
std::vector<T> numbers(std::span<const uint8_t> bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

template <class T>
std::string join_some(const std::vector<T>& values) {
  constexpr size_t kShown = 4;
  std::vector<std::string> text;
  for (size_t i = 0; i < std::min(kShown, values.size()); ++i)
    text.push_back(fmt::format("{:.4g}", static_cast<double>(values[i])));
  return fmt::format("{}{}", fmt::join(text, " "), values.size() > kShown ? " ..." : "");
}

std::string show(const ShardReader& shard, size_t c, int64_t record) {
  if (!shard.has(c, record)) return "missing";
  const auto bytes = shard.value(c, record);
  const Column& column = shard.columns()[c];
  switch (column.type) {
    case ColumnType::kInt64: {
      const auto values = numbers<int64_t>(bytes);
      const auto number = static_cast<size_t>(values.front());
      return number < column.classes.size() ? fmt::format("{} ({})", number, column.classes[number])
                                            : fmt::format("{}", fmt::join(values, " "));
    }
    case ColumnType::kFloat32:
      return join_some(numbers<float>(bytes));
    case ColumnType::kUint8:
      return join_some(numbers<uint8_t>(bytes));
    case ColumnType::kPng:
      return fmt::format("PNG of {} bytes", bytes.size());
    case ColumnType::kText:
      return {bytes.begin(), bytes.end()};
  }
  return "";
}

ImageInfo probe_record(const ShardReader& shard, int64_t record) {
  std::vector<uint8_t> bytes;
  shard.read_image(record, bytes);
  try {
    return probe_image(bytes);
  } catch (const Error& error) {
    FT_FAIL("shard '{}', sample {}: {}", shard.file().string(), record, error.what());
  }
}

void add_shard(const ShardReader& shard, int64_t first, int64_t stride, SetInfo& info) {
  if (info.columns.empty()) {
    info.columns = shard.columns();
    info.present.assign(info.columns.size(), 0);
  }
  for (int64_t i = 0; i < shard.size(); ++i) {
    info.image_bytes += shard.image_size(i);
    for (size_t c = 0; c < info.columns.size(); ++c) info.present[c] += shard.has(c, i);
    if ((first + i) % stride != 0) continue;
    const ImageInfo image = probe_record(shard, i);
    ++info.sizes[{image.width, image.height}];
    ++info.formats[to_string(image.format)];
    ++info.probed;
  }
}

std::vector<std::string> example_row(const ShardReader& shard, int64_t record, int64_t index) {
  const ImageInfo image = probe_record(shard, record);
  std::vector<std::string> row{fmt::format("{}", index),
                               fmt::format("{} {}x{}, {} bytes", to_string(image.format),
                                           image.width, image.height, shard.image_size(record))};
  for (size_t c = 0; c < shard.columns().size(); ++c) row.push_back(show(shard, c, record));
  return row;
}

// The failures of one shard's images and masks.
void verify_images(const ShardReader& shard, const std::function<void()>& tick,
                   std::vector<std::string>& failures) {
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < shard.size(); ++i, tick()) {
    try {
      shard.read_image(i, bytes);
    } catch (const Error& error) {
      failures.emplace_back(error.what());
      continue;
    }
    try {
      decode_image(bytes);
      for (size_t c = 0; c < shard.columns().size(); ++c) {
        if (shard.columns()[c].type == ColumnType::kPng && shard.has(c, i))
          decode_mask(shard.value(c, i));
      }
    } catch (const Error& error) {
      failures.push_back(
          fmt::format("shard '{}', sample {}: {}", shard.file().string(), i, error.what()));
    }
  }
}

std::vector<std::string> verify_shard(const fs::path& file, const std::function<void()>& tick,
                                      int64_t& images) {
  std::vector<std::string> failures;
  try {
    const ShardReader shard(file);
    images = shard.size();
    try {
      shard.verify_content();
    } catch (const Error& error) {
      failures.emplace_back(error.what());
    }
    verify_images(shard, tick, failures);
  } catch (const Error& error) {
    failures.emplace_back(error.what());
  }
  return failures;
}

}  // namespace

SetInfo inspect_set(const fs::path& path, int64_t probe, int64_t examples) {
  const auto source = open_source(path.string(), {});
  SetInfo info;
  info.name = source->name();
  info.images = source->size();
  info.identities = count_identities(*source);
  const int64_t stride =
      std::max<int64_t>(1, (info.images + probe - 1) / std::max<int64_t>(probe, 1));
  int64_t first = 0;
  for (const fs::path& file : files_of(path)) {
    const ShardReader shard(file);
    ++info.shards;
    info.file_bytes += static_cast<int64_t>(fs::file_size(file));
    add_shard(shard, first, stride, info);
    for (int64_t n = 0; n < examples; ++n) {  // spread over the set
      const int64_t index = n * info.images / examples;
      const bool here = index >= first && index < first + shard.size();
      const bool repeated = n > 0 && index == (n - 1) * info.images / examples;
      if (here && !repeated) info.examples.push_back(example_row(shard, index - first, index));
    }
    first += shard.size();
  }
  return info;
}

VerifyResult verify_set(const fs::path& path, int64_t jobs,
                        const std::function<void(int64_t, int64_t)>& progress) {
  const std::vector<fs::path> files = files_of(path);
  std::vector<std::vector<std::string>> failures(files.size());
  std::vector<int64_t> images(files.size(), 0);
  int64_t total = 0;
  VerifyResult result;
  try {
    total = open_source(path.string(), {})->size();
  } catch (const Error& error) {  // the shards themselves say more below
    if (fs::is_directory(path)) result.failures.emplace_back(error.what());
  }
  std::mutex mutex;
  int64_t done = 0;
  const std::function<void()> tick = [&] {
    const std::lock_guard lock(mutex);
    ++done;
    if (progress) progress(done, std::max(total, done));
  };
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < files.size(); i = next++)
      failures[i] = verify_shard(files[i], tick, images[i]);
  };
  std::vector<std::thread> threads;
  for (int64_t job = 1; job < std::min<int64_t>(jobs, static_cast<int64_t>(files.size())); ++job)
    threads.emplace_back(work);
  work();
  for (auto& thread : threads) thread.join();
  result.shards = static_cast<int64_t>(files.size());
  for (size_t i = 0; i < files.size(); ++i) {
    result.images += images[i];
    for (auto& failure : failures[i]) {
      if (std::find(result.failures.begin(), result.failures.end(), failure) ==
          result.failures.end())
        result.failures.push_back(std::move(failure));
    }
  }
  return result;
}

}  // namespace facetrain
