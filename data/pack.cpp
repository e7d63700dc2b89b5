#include "data/pack.h"

#include <algorithm>
#include <map>

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

// The bytes that a shard stores.
std::vector<uint8_t> stored_image(const FileList& list, const FileList::Item& item) {
  std::vector<uint8_t> bytes = read_bytes(list.file(item));
  const ImageInfo info = probe_image(bytes);
  return info.format == ImageFormat::kPnm ? to_png(decode_image(bytes), info.channels) : bytes;
}

ShardRecord make_record(const FileList& list, const FileList::Item& item) {
  ShardRecord record;
  try {
    record.image = stored_image(list, item);
    decode_image(record.image);
  } catch (const Error& error) {
    FT_FAIL("'{}' is no whole image: {}; remove it, or its line of the list, and run again",
            list.file(item).string(), error.what());
  }
  if (item.identity >= 0) record.set("identity", item.identity);
  record.set("name", std::span<const char>(item.key.data(), item.key.size()));
  return record;
}

// Identities with fewer images than `wanted`: "1 of 7: label 6 ('zoe/000.ppm')"; empty: none.
std::string identities_below(const FileList& list, int64_t wanted) {
  std::map<int64_t, int64_t> images;
  std::map<int64_t, std::string> first;
  for (const auto& item : list.items) {
    ++images[item.identity];
    first.try_emplace(item.identity, item.key);
  }
  constexpr size_t kShown = 5;
  std::vector<std::string> few;
  int64_t count = 0;
  for (const auto& [identity, number] : images) {
    if (identity < 0 || number >= wanted) continue;
    ++count;
    if (few.size() < kShown)
      few.push_back(fmt::format("label {} ('{}')", identity, first[identity]));
  }
  if (count == 0) return "";
  return fmt::format("{} of {}: {}{}", count, images.size(), fmt::join(few, ", "),
                     count > std::ssize(few) ? " ..." : "");
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
  const std::string gaps = list_gaps(list);
  if (!gaps.empty()) {
    FT_CHECK(options.allow_gaps,
             "wanted labels 0 ... {} with an image each, found none of: {}; number them without "
             "gaps, or pass --allow-gaps",
             result.identities - 1, gaps);
    result.warnings.push_back(fmt::format("labels without an image: {}", gaps));
  }
  const std::string few = identities_below(list, options.min_images);
  FT_CHECK(few.empty(),
           "wanted at least {} images of each identity (--min-images), found fewer for {}; add "
           "images, leave these out, or lower --min-images",
           options.min_images, few);
  const std::string single = options.min_images < 2 ? identities_below(list, 2) : "";
  if (!single.empty())
    result.warnings.push_back(fmt::format(
        "identities with one image: {}; they are kept, --min-images 2 refuses them", single));

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
  plan.image = [&list](int64_t i) {
    return stored_image(list, list.items[static_cast<size_t>(i)]);
  };
  plan.progress = options.progress;
  result.set = write_shard_set(plan);
  return result;
}

}  // namespace facetrain
