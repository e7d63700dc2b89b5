#include "data/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/support/data_support.h"

namespace facetrain {
namespace {

using testing::HasSubstr;
using Sets = std::vector<std::shared_ptr<const Source>>;

struct Plan {
  Sets sets;
  std::vector<double> weights;
  LoaderOptions options;
  bool flip = true;
  std::string sampler = "name: shuffle";

  std::unique_ptr<Loader> make() const {
    SamplerInput input{sets, weights, options.seed, options.batch_size};
    std::vector<std::pair<std::string, std::shared_ptr<const Transform>>> transforms;
    if (flip)
      transforms.emplace_back("flip", Transforms::get().create(Config::parse("name: flip")));
    return std::make_unique<Loader>(sets, Samplers::get().create(Config::parse(sampler), input),
                                    transforms, options);
  }
};

Plan shard_plan(const TemporaryFolder& folder, int64_t batch) {
  write_test_set(folder.path(), 23, 8);
  Plan plan;
  plan.sets = {open_source(folder.path().string(), {})};
  plan.options.batch_size = batch;
  plan.options.seed = 5;
  return plan;
}

// All rows of some steps, by position: every field's bytes.
using Rows = std::map<int64_t, std::map<std::string, at::Tensor>>;
void gather(const std::vector<Batch>& batches, Rows& rows) {
  for (const Batch& batch : batches) {
    ASSERT_EQ(batch.position.size(0), batch.rows);
    for (int64_t r = 0; r < batch.rows; ++r) {
      auto& row = rows[batch.position[r].item<int64_t>()];
      ASSERT_TRUE(row.empty()) << "a position was dealt twice";
      for (const auto& [name, field] : batch.fields) row[name] = field[r];
    }
  }
}
Rows gather_steps(Loader& loader, int64_t steps) {
  Rows rows;
  for (int64_t step = 0; step < steps; ++step) gather(loader.next(), rows);
  return rows;
}
void expect_equal(const Rows& a, const Rows& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [position, row] : a) {
    const auto& other = b.at(position);
    ASSERT_EQ(row.size(), other.size());
    for (const auto& [name, value] : row)
      EXPECT_TRUE(value.equal(other.at(name)) ||
                  (value.is_floating_point() && value.isnan().all().item<bool>() &&
                   other.at(name).isnan().all().item<bool>()))
          << position << " " << name;
  }
}

TEST(Loader, OutputDoesNotDependOnWorkersOrPrefetch) {
  const TemporaryFolder folder;
  Plan plan = shard_plan(folder, 10);
  const Rows wanted = gather_steps(*plan.make(), 6);
  ASSERT_EQ(wanted.size(), 60u);
  for (const int64_t workers : {2, 5}) {
    plan.options.workers = workers;
    plan.options.prefetch = 1 + workers % 3;
    expect_equal(wanted, gather_steps(*plan.make(), 6));
  }
}

TEST(Loader, UnionOverRanksAndMicroBatchesIsTheGlobalBatch) {
  const TemporaryFolder folder;
  Plan plan = shard_plan(folder, 11);
  const Rows wanted = gather_steps(*plan.make(), 4);
  for (const int64_t size : {1, 2, 3}) {
    for (const int64_t accumulate : {1, 3}) {
      Rows rows;
      for (int64_t rank = 0; rank < size; ++rank) {
        plan.options.size = size;
        plan.options.rank = rank;
        plan.options.accumulate = accumulate;
        const auto loader = plan.make();
        for (int64_t step = 0; step < 4; ++step) {
          const auto batches = loader->next();
          ASSERT_EQ(static_cast<int64_t>(batches.size()), accumulate);
          for (int64_t i = 0; i < accumulate; ++i) {
            const int64_t n = 11 * (i + 1) / accumulate - 11 * i / accumulate;
            const auto& batch = batches[static_cast<size_t>(i)];
            EXPECT_EQ(batch.global_rows, n);
            EXPECT_EQ(batch.rows, n * (rank + 1) / size - n * rank / size);
            EXPECT_EQ(batch.position[0].item<int64_t>(),
                      step * 11 + 11 * i / accumulate + n * rank / size);
          }
          gather(batches, rows);
        }
      }
      expect_equal(wanted, rows);
    }
  }
}

TEST(Loader, SeekGivesWhatAFreshLoaderGivesThere) {
  const TemporaryFolder folder;
  Plan plan = shard_plan(folder, 6);
  plan.options.workers = 3;
  const auto straight = plan.make();
  std::vector<Rows> steps(9);
  for (auto& step : steps) gather(straight->next(), step);
  const auto jumping = plan.make();
  for (const int64_t step : {7, 0, 3, 4, 8, 1}) {
    if (step != 4) jumping->seek(step);
    Rows rows;
    gather(jumping->next(), rows);
    expect_equal(steps[static_cast<size_t>(step)], rows);
  }
  EXPECT_THROW(jumping->seek(-1), Error);
}

TEST(Loader, CollatesEveryFieldWithPresenceWhereAColumnHasHoles) {
  const TemporaryFolder folder;
  Plan plan = shard_plan(folder, 23);
  plan.flip = false;
  plan.sampler = "name: sequential";
  const auto batches = plan.make()->next();
  const Batch& batch = batches.front();
  EXPECT_EQ(batch["image"].sizes(), (std::vector<int64_t>{23, 16, 16, 3}));
  EXPECT_EQ(batch["landmarks5"].sizes(), (std::vector<int64_t>{23, 5, 2}));
  EXPECT_EQ(batch["mask"].sizes(), (std::vector<int64_t>{23, 16, 16}));
  EXPECT_EQ(batch["attributes"].sizes(), (std::vector<int64_t>{23, 3}));
  EXPECT_EQ(batch["identity"].scalar_type(), at::kLong);
  EXPECT_FALSE(batch.has("identity_present"));
  EXPECT_FALSE(batch.has("name"));
  for (int64_t i = 0; i < 23; ++i) {
    EXPECT_EQ(batch["identity"][i].item<int64_t>(), i / 2);
    EXPECT_EQ(batch["age_present"][i].item<int64_t>(), i % 3 != 2);
    EXPECT_EQ(std::isnan(batch["age"][i].item<float>()), i % 3 == 2);
  }
}

TEST(Loader, JoinedSetsGetIdentitiesOfTheirOwn) {
  Plan plan;
  plan.sets = {std::make_shared<MemorySource>(6, 2), std::make_shared<MemorySource>(8, 4)};
  plan.options.batch_size = 14;
  plan.sampler = "name: sequential";
  plan.flip = false;
  const Batch batch = plan.make()->next().front();
  const at::Tensor wanted = at::tensor({0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4}, at::kLong);
  EXPECT_TRUE(batch["identity"].equal(wanted));
}

TEST(Loader, SetsWithoutAColumnAreFilledAndMarked) {
  const TemporaryFolder folder;
  write_test_set(folder.path() / "set", 4, 4, 4);
  Plan plan;
  plan.sets = {std::make_shared<MemorySource>(4, 2),
               open_source((folder.path() / "set").string(), {})};
  plan.options.batch_size = 8;
  plan.sampler = "name: sequential";
  plan.flip = false;
  const Batch batch = plan.make()->next().front();
  for (const char* name : {"landmarks5", "mask", "attributes"})
    EXPECT_TRUE(batch[std::string(name) + "_present"].equal(
        at::tensor({0, 0, 0, 0, 1, 1, 1, 1}, at::kByte)));
  EXPECT_TRUE((batch["mask"].slice(0, 0, 4) == 255).all().item<bool>());
  EXPECT_TRUE((batch["attributes"].slice(0, 0, 4) == 255).all().item<bool>());
  EXPECT_TRUE(batch["landmarks5"].slice(0, 0, 4).isnan().all().item<bool>());
  EXPECT_EQ(batch["mask"].sizes(), (std::vector<int64_t>{8, 4, 4}));
}

TEST(Loader, CorruptSamplesAreErrorsOrReplaced) {
  Plan plan;
  plan.sets = {std::make_shared<MemorySource>(20, 4, std::vector<int64_t>{3, 4, 11})};
  plan.options.batch_size = 5;
  plan.options.workers = 3;
  plan.sampler = "name: sequential";
  plan.flip = false;
  const auto strict = plan.make();
  EXPECT_THAT(error_of([&] { strict->next(); }),
              HasSubstr("memory sample 3: broken; remove it, or set data.corrupt=skip"));
  plan.options.corrupt = "skip";
  const auto loader = plan.make();
  testing::internal::CaptureStderr();
  Rows rows = gather_steps(*loader, 4);
  const std::string warnings = testing::internal::GetCapturedStderr();
  EXPECT_THAT(warnings, HasSubstr("memory sample 11: broken"));
  // 3 -> 4 is broken too -> 5; 4 -> 5; 11 -> 12.
  EXPECT_EQ(rows[3]["image"][0][0][0].item<int64_t>(), 5);
  EXPECT_EQ(rows[4]["image"][0][0][0].item<int64_t>(), 5);
  EXPECT_EQ(rows[11]["image"][0][0][0].item<int64_t>(), 12);
  EXPECT_EQ(rows[12]["image"][0][0][0].item<int64_t>(), 12);
  EXPECT_EQ(loader->status().skipped, 4);
  plan.options.workers = 1;
  const auto again = plan.make();
  testing::internal::CaptureStderr();
  expect_equal(rows, gather_steps(*again, 4));
  testing::internal::GetCapturedStderr();
}

TEST(Loader, SkipsACorruptJpegInAShard) {
  const TemporaryFolder folder;
  write_test_set(folder.path() / "good", 8, 8);
  std::filesystem::create_directories(folder.path() / "bad");
  ShardWriter writer(folder.path() / "bad" / "x.h5", {"bad", "bad", 0, 1}, test_columns());
  for (int64_t i = 0; i < 8; ++i) {
    ShardRecord record = test_record(i);
    if (i == 5)
      record.image.resize(record.image.size() / 2);  // the checksum is right, the JPEG is not
    writer.add(record);
  }
  writer.finish();
  Plan plan;
  plan.sets = {open_source((folder.path() / "bad").string(), {})};
  plan.options.batch_size = 8;
  const auto strict = plan.make();
  const std::string message = error_of([&] { strict->next(); });
  for (const char* part : {"set 'bad'", "x.h5", "sample 5", "JPEG"})
    EXPECT_THAT(message, HasSubstr(part));
  plan.options.corrupt = "skip";
  testing::internal::CaptureStderr();
  const auto loader = plan.make();
  EXPECT_EQ(loader->next().front().rows, 8);
  EXPECT_EQ(loader->status().skipped, 1);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("sample 5"));
}

TEST(Loader, GivesUpWhenNothingCanBeRead) {
  Plan plan;
  plan.sets = {std::make_shared<MemorySource>(4, 2, std::vector<int64_t>{0, 1, 2, 3})};
  plan.options.batch_size = 2;
  plan.options.corrupt = "skip";
  EXPECT_THAT(error_of([&] { plan.make()->next(); }), HasSubstr("4 samples in a row"));
}

TEST(Loader, MixedSizesAskForDataSize) {
  const TemporaryFolder folder;
  write_file(folder.path() / "a" / "1.png", encode_png(smooth_image(1, 16, 16)));
  write_file(folder.path() / "a" / "2.png", encode_png(smooth_image(1, 16, 12)));
  Plan plan;
  plan.sets = {open_source("folder:" + folder.path().string(), {})};
  plan.options.batch_size = 2;
  EXPECT_THAT(error_of([&] { plan.make()->next(); }), HasSubstr("set data.size and data.fit"));
  plan.sets = {
      open_source("folder:" + folder.path().string(), {.size = 8, .fit = "resize", .columns = {}})};
  EXPECT_EQ(plan.make()->next().front()["image"].sizes(), (std::vector<int64_t>{2, 8, 8, 3}));
}

TEST(Loader, BadOptionsSayWhatToDo) {
  Plan plan;
  plan.sets = {std::make_shared<MemorySource>(8, 2)};
  plan.options.batch_size = 4;
  plan.options.size = 3;
  plan.options.accumulate = 2;
  EXPECT_THAT(error_of([&] { plan.make(); }), HasSubstr("at least one row a rank"));
  plan.options.size = 1;
  plan.options.corrupt = "ignore";
  EXPECT_THAT(error_of([&] { plan.make(); }), HasSubstr("data.corrupt"));
  plan.options.corrupt = "error";
  plan.options.workers = 0;
  EXPECT_THAT(error_of([&] { plan.make(); }), HasSubstr("data.workers"));
}

// A transform that adds a second view of another size: the loader collates it by name.
class HalfView final : public Transform {
 public:
  void apply(Sample& sample, uint64_t key) const override {
    sample.fields["half"] = sample.fields.at("image").slice(0, 0, 2).slice(1, 0, 2);
    sample.fields["key"] = at::scalar_tensor(static_cast<int64_t>(key >> 1), at::kLong);
  }
};

TEST(Loader, TransformsMayAddFieldsAndGetTheKeyOfThePosition) {
  Plan plan;
  plan.sets = {std::make_shared<MemorySource>(6, 2)};
  plan.options.batch_size = 6;
  plan.options.seed = 9;
  SamplerInput input{plan.sets, {}, 9, 6};
  Loader loader(plan.sets, Samplers::get().create(Config::parse("name: sequential"), input),
                {{"half", std::make_shared<HalfView>()}}, plan.options);
  loader.seek(2);
  const Batch batch = loader.next().front();
  EXPECT_EQ(batch["half"].sizes(), (std::vector<int64_t>{6, 2, 2, 3}));
  EXPECT_TRUE(batch["half"].equal(batch["image"].slice(1, 0, 2).slice(2, 0, 2)));
  for (int64_t r = 0; r < 6; ++r)
    EXPECT_EQ(batch["key"][r].item<int64_t>(),
              static_cast<int64_t>(random_key(9, 12 + r, name_key("half")) >> 1));
}

TEST(Loader, CountsTheTimeThatItWaits) {
  Plan plan;
  plan.sets = {std::make_shared<MemorySource>(6, 2)};
  plan.options.batch_size = 3;
  const auto loader = plan.make();
  loader->next();
  EXPECT_GT(loader->status().wait_seconds, 0);
  EXPECT_EQ(loader->status().wait_seconds, 0);
}

}  // namespace
}  // namespace facetrain
