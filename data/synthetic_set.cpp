#include "data/synthetic_set.h"

#include <algorithm>

#include "core/check.h"
#include "core/random.h"
#include "data/pairs.h"
#include "data/synthetic_faces.h"

namespace facetrain {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> strings(std::span<const std::string_view> names) {
  return {names.begin(), names.end()};
}

template <class T, size_t kCount>
void set_array(ShardRecord& record, const char* column, const std::array<T, kCount>& values) {
  record.set(column, std::span<const T>(values));
}

ShardRecord make_record(const SyntheticOptions& options, int64_t person, int64_t image,
                        int64_t label) {
  const SyntheticFace face = render_synthetic_face(options, person, image);
  ShardRecord record;
  record.image = encode_jpeg(face.image, face.jpeg_quality);
  record.set("identity", label);
  set_array(record, "landmarks5", face.landmarks5);
  set_array(record, "landmarks68", face.landmarks68);
  set_array(record, "pose", face.pose);
  set_array(record, "gaze", face.gaze);
  record.labels["mask"] = encode_png(face.mask);
  record.labels["attributes"] = face.attributes;
  record.set("expression", face.expression);
  record.set("age", face.age);
  record.set("age_group", face.age_group);
  record.set("quality", face.quality);
  set_array(record, "visibility68", face.visibility68);
  return record;
}

struct Split {
  fs::path out;
  int64_t first_person, identities, images;
};

ShardSetResult write_split(const SyntheticSetOptions& options, const Split& split) {
  const SyntheticOptions renderer{options.seed, static_cast<int>(options.size), true};
  ShardSetPlan plan;
  plan.out = split.out;
  plan.set = split.out.filename().string();
  plan.fingerprint =
      to_fingerprint(random_key(name_key("synth"), options.seed, options.size, split.first_person,
                                split.identities, split.images, options.shard_images));
  plan.columns = synthetic_columns();
  plan.begin =
      cut_shards(std::vector<int64_t>(static_cast<size_t>(split.identities * split.images), 1),
                 options.shard_images, 0);
  plan.jobs = options.jobs;
  plan.record = [renderer, split](int64_t i) {
    const int64_t label = i / split.images;
    return make_record(renderer, split.first_person + label, i % split.images, label);
  };
  plan.progress = options.progress;
  return write_shard_set(plan);
}

}  // namespace

std::vector<Column> synthetic_columns() {
  std::vector<Column> columns;
  for (const Column& column : standard_columns())
    if (column.name != "name") columns.push_back(column);
  for (Column& column : columns) {
    if (column.name == "attributes") {
      column.classes = strings(synthetic_attribute_names());
      column.shape = {static_cast<int64_t>(column.classes.size())};
    }
    if (column.name == "expression") column.classes = strings(synthetic_expression_names());
    if (column.name == "age_group") column.classes = strings(synthetic_age_group_names());
    if (column.name == "mask") column.classes = strings(synthetic_mask_names());
  }
  return columns;
}

SyntheticSetResult write_synthetic_set(const SyntheticSetOptions& options) {
  FT_CHECK(options.identities >= 1 && options.images >= 1,
           "wanted at least one identity and one image, found {} and {}", options.identities,
           options.images);
  FT_CHECK(options.size >= 16 && options.size <= 2048,
           "wanted a size from 16 to 2048 pixels, found {}", options.size);
  FT_CHECK(options.test_identities == 0 || options.test_identities >= 2,
           "wanted 0 (no test split) or at least 2 test identities, found {}",
           options.test_identities);
  const int64_t test_images =
      options.test_images > 0 ? options.test_images : std::clamp<int64_t>(options.images, 2, 20);
  FT_CHECK(options.test_identities == 0 || test_images >= 2,
           "wanted at least 2 images of a test identity, for a pair, found {}", test_images);
  const fs::path clean = options.out.lexically_normal();
  const fs::path out = clean.has_filename() ? clean : clean.parent_path();
  FT_CHECK(!out.filename().empty() && out.filename() != "." && out.filename() != "..",
           "wanted a folder with a name of its own for --out, found '{}'", options.out.string());
  SyntheticSetResult result;
  result.train = write_split(options, {out, 0, options.identities, options.images});
  if (options.test_identities == 0) return result;
  result.test_folder = out.string() + "-test";
  result.test = write_split(
      options, {result.test_folder, options.identities, options.test_identities, test_images});
  const auto pairs = make_pairs(options.test_identities, test_images, 10, 6000, options.seed);
  write_pairs(result.test_folder / "pairs.csv", pairs);
  result.pairs = static_cast<int64_t>(pairs.size());
  return result;
}

}  // namespace facetrain
