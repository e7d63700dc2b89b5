// Small sets made from counters, for tests of the data folder.
#pragma once

#include <ATen/ATen.h>

#include <cmath>
#include <fstream>
#include <iterator>

#include "data/image_codec.h"
#include "data/shard_writer.h"
#include "data/source.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"

namespace facetrain {

// A smooth picture that differs by `number`.
inline Image smooth_image(int64_t number, int width = 16, int height = 16) {
  Image image{width, height, 3, {}};
  const double a = 0.07 * static_cast<double>(number % 29) + 0.05;
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x)
      for (int c = 0; c < 3; ++c)
        image.pixels.push_back(static_cast<uint8_t>(
            std::lround(127 + 60 * std::sin(a * x + 0.2 * c) + 50 * std::cos(0.11 * y + a * c))));
  return image;
}

inline std::vector<uint8_t> read_file(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

inline void write_file(const std::filesystem::path& file, const std::vector<uint8_t>& bytes) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file, std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()),
             static_cast<std::streamsize>(bytes.size()));
}

// Columns of every type: identity, landmarks5, mask, attributes [3], age (absent from every third
// record), name.
inline std::vector<Column> test_columns() {
  std::vector<Column> columns;
  for (const char* name : {"identity", "landmarks5", "mask", "attributes", "age", "name"})
    columns.push_back(standard_column(name));
  columns[2].classes = {"background", "skin"};
  columns[3].classes = {"hat", "glasses", "beard"};
  columns[3].shape = {3};
  return columns;
}

inline ShardRecord test_record(int64_t i, int size = 16) {
  ShardRecord record;
  record.image = encode_jpeg(smooth_image(i, size, size), 92);
  record.set("identity", i / 2);
  std::vector<float> points(10);
  for (size_t p = 0; p < 10; ++p) points[p] = static_cast<float>(i) + 0.25f * static_cast<float>(p);
  record.set("landmarks5", std::span<const float>(points));
  Image mask{size, size, 1, std::vector<uint8_t>(static_cast<size_t>(size) * size)};
  for (size_t p = 0; p < mask.pixels.size(); ++p)
    mask.pixels[p] = static_cast<uint8_t>((p + i) % 11);
  record.labels["mask"] = encode_png(mask);
  record.labels["attributes"] = {static_cast<uint8_t>(i & 1), 1, 0};
  if (i % 3 != 2) record.set("age", 20.0f + static_cast<float>(i));
  const std::string name = "person/" + std::to_string(i) + ".jpg";
  record.set("name", std::span<const char>(name.data(), name.size()));
  return record;
}

// `records` test records in shards of `per_shard`, in `folder`.
inline void write_test_set(const std::filesystem::path& folder, int64_t records, int64_t per_shard,
                           int size = 16, const std::string& set = "tiny") {
  std::filesystem::create_directories(folder);
  const int64_t count = (records + per_shard - 1) / per_shard;
  for (int64_t shard = 0; shard < count; ++shard) {
    ShardWriter writer(folder / fmt::format("{}-{:05}.h5", set, shard),
                       {set, "print-" + set, shard, count}, test_columns());
    for (int64_t i = shard * per_shard; i < std::min((shard + 1) * per_shard, records); ++i)
      writer.add(test_record(i, size));
    writer.finish();
  }
}

// A set without files: image [4, 4, 3] filled with `offset + index`, identity index /
// `per_identity`. Some indexes fail.
class MemorySource final : public Source {
 public:
  MemorySource(int64_t size, int64_t per_identity, std::vector<int64_t> broken = {})
      : size_(size), per_identity_(per_identity), broken_(std::move(broken)) {}
  int64_t size() const override { return size_; }
  int64_t identity(int64_t index) const override { return index / per_identity_; }
  int64_t identities() const override { return (size_ + per_identity_ - 1) / per_identity_; }
  std::string describe(int64_t index) const override {
    return fmt::format("memory sample {}", index);
  }
  std::string name() const override { return "memory"; }
  std::vector<Column> columns() const override { return {standard_column("identity")}; }
  Sample read(int64_t index) const override {
    FT_CHECK(std::find(broken_.begin(), broken_.end(), index) == broken_.end(), "{}: broken",
             describe(index));
    Sample sample;
    sample.index = index;
    at::Tensor image = at::empty({4, 4, 3}, at::kByte);
    for (int64_t i = 0; i < image.numel(); ++i)
      image.mutable_data_ptr<uint8_t>()[i] = static_cast<uint8_t>(index + 7 * i);
    sample.fields["image"] = image;
    sample.fields["identity"] = at::scalar_tensor(identity(index), at::kLong);
    return sample;
  }

 private:
  int64_t size_, per_identity_;
  std::vector<int64_t> broken_;
};

}  // namespace facetrain
