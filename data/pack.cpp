#include "data/pack.h"

#include <algorithm>

#include "core/check.h"
#include "core/random.h"
#include "data/file_list.h"
#include "data/image_codec.h"
#include "data/source.h"

namespace facetrain {
namespace {

namespace fs = std::filesystem;

// PNM has no compression: as PNG it is smaller, and grey stays grey.
std::vector<uint8_t> to_png(Image image, int channels) {
  if (channels == 1) {
    for (size_t i = 0; 3 * i < image.pixels.size(); ++i) image.pixels[i] = image.pixels[3 * i];
    image.pixels.resize(image.pixels.size() / 3);
    image.channels = 1;
  }
  return encode_png(image);
}

ShardRecord make_record(const FileList& list, const FileList::Item& item) {
  ShardRecord record;
  try {
    record.image = read_bytes(list.file(item));
    const ImageInfo info = probe_image(record.image);
    Image image = decode_image(record.image);
    if (info.format == ImageFormat::kPnm) record.image = to_png(std::move(image), info.channels);
  } catch (const Error& error) {
    FT_FAIL("'{}' is no whole image: {}; remove it, or its line of the list, and run again",
            list.file(item).string(), error.what());
  }
  if (item.identity >= 0) record.set("identity", item.identity);
  record.set("name", std::span<const char>(item.key.data(), item.key.size()));
  return record;
}

std::vector<int64_t> find_gaps(const FileList& list, int64_t identities) {
  std::vector<bool> seen(static_cast<size_t>(identities), false);
  for (const auto& item : list.items)
    if (item.identity >= 0) seen[static_cast<size_t>(item.identity)] = true;
  std::vector<int64_t> gaps;
  for (size_t i = 0; i < seen.size(); ++i)
    if (!seen[i]) gaps.push_back(static_cast<int64_t>(i));
  return gaps;
}

uint64_t fingerprint(const FileList& list, const PackOptions& options) {
  uint64_t key = random_key(name_key("pack"), options.shard_images, options.shard_bytes);
  for (const auto& item : list.items)
    key = random_key(key, name_key(item.key), item.identity, item.bytes);
  return key;
}

}  // namespace

PackResult pack_set(const PackOptions& options) {
  check_exists(options.in);
  const FileList list =
      fs::is_directory(options.in) ? list_folder(options.in) : read_list(options.in);
  PackResult result;
  result.warnings = list.warnings;
  std::vector<int64_t> lengths;
  for (const auto& item : list.items) {
    lengths.push_back(item.bytes);
    result.identities = std::max(result.identities, item.identity + 1);
  }
  FT_CHECK(result.identities <= int64_t{1} << 31,
           "label {} is too large: number the labels 0 ... C-1", result.identities - 1);
  const auto gaps = find_gaps(list, result.identities);
  if (!gaps.empty()) {
    FT_CHECK(options.allow_gaps,
             "wanted labels 0 ... {} with an image each, found none of: {}; number them without "
             "gaps, or pass --allow-gaps",
             result.identities - 1, list_some(gaps));
    result.warnings.push_back(fmt::format("labels without an image: {}", list_some(gaps)));
  }

  ShardSetPlan plan;
  plan.out = options.out;
  const fs::path whole = fs::absolute(options.out).lexically_normal();
  plan.set = (whole.has_filename() ? whole : whole.parent_path()).filename().string();
  plan.fingerprint = to_fingerprint(fingerprint(list, options));
  if (result.identities > 0) plan.columns.push_back(standard_column("identity"));
  plan.columns.push_back(standard_column("name"));
  plan.begin = cut_shards(lengths, options.shard_images, options.shard_bytes);
  plan.jobs = options.jobs;
  plan.record = [&list](int64_t i) {
    return make_record(list, list.items[static_cast<size_t>(i)]);
  };
  plan.progress = options.progress;
  result.set = write_shard_set(plan);
  return result;
}

}  // namespace facetrain
