#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>
#include <cstring>

#include "core/hdf5.h"
#include "data/crc32c.h"
#include "data/shard_reader.h"
#include "tests/support/data_support.h"

namespace facetrain {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

fs::path write_one(const TemporaryFolder& folder, int64_t records) {
  write_test_set(folder.path(), records, records);
  return folder.path() / "tiny-00000.h5";
}

// Changes an attribute of the root as a foreign program would.
template <class T>
void set_root(const fs::path& file, const std::string& name, const T& value) {
  const std::lock_guard lock(hdf5_mutex());
  const Hdf5Handle root(H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose, "test");
  write_attribute(root, name, value);
}

TEST(Shard, GivesBackWhatWasWritten) {
  const TemporaryFolder folder;
  const ShardReader shard(write_one(folder, 7));
  ASSERT_EQ(shard.size(), 7);
  EXPECT_EQ(shard.header().set, "tiny");
  EXPECT_EQ(shard.header().count, 1);
  EXPECT_EQ(shard.version(), kShardVersion);
  std::vector<uint8_t> bytes;
  for (int64_t i = 0; i < 7; ++i) {
    const ShardRecord wanted = test_record(i);
    shard.read_image(i, bytes);
    EXPECT_EQ(bytes, wanted.image) << "JPEG bytes are kept as they are";
    for (size_t c = 0; c < shard.columns().size(); ++c) {
      const auto label = wanted.labels.find(shard.columns()[c].name);
      ASSERT_EQ(shard.has(c, i), label != wanted.labels.end());
      if (!shard.has(c, i)) continue;
      const auto value = shard.value(c, i);
      EXPECT_EQ(std::vector<uint8_t>(value.begin(), value.end()), label->second)
          << shard.columns()[c].name;
    }
  }
  EXPECT_NO_THROW(shard.verify_content());
}

TEST(Shard, DescribesItsColumnsAndMissingValues) {
  const TemporaryFolder folder;
  const ShardReader shard(write_one(folder, 3));
  const size_t age = shard.find("age").value(), attributes = shard.find("attributes").value();
  EXPECT_FALSE(shard.columns()[age].complete);
  EXPECT_TRUE(shard.columns()[attributes].complete);
  EXPECT_EQ(shard.columns()[attributes].classes,
            (std::vector<std::string>{"hat", "glasses", "beard"}));
  EXPECT_EQ(shard.columns()[attributes].shape, std::vector<int64_t>{3});
  EXPECT_EQ(shard.columns()[age].unit, "years");
  EXPECT_FALSE(shard.has(age, 2));
  float value = 0;
  std::memcpy(&value, shard.value(age, 2).data(), sizeof(value));
  EXPECT_TRUE(std::isnan(value));
  EXPECT_FALSE(shard.find("pose").has_value());
}

TEST(Shard, LoadsOnlyTheNamedColumns) {
  const TemporaryFolder folder;
  const ShardReader shard(write_one(folder, 4), std::vector<std::string>{"age", "pose"});
  ASSERT_EQ(shard.columns().size(), 1u);
  EXPECT_EQ(shard.columns()[0].name, "age");
  EXPECT_TRUE(shard.has(0, 0));
  EXPECT_FALSE(shard.has(0, 2));
  EXPECT_NO_THROW(shard.verify_content());
}

TEST(Shard, ImagesAreAlignedAndContiguous) {
  const TemporaryFolder folder;
  for (const int64_t records : {1, 50}) {
    const fs::path file = write_one(folder, records);
    const std::lock_guard lock(hdf5_mutex());
    const Hdf5Handle root(H5Fopen(file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, "test");
    const Hdf5Handle bytes(H5Dopen2(root, "images/bytes", H5P_DEFAULT), H5Dclose, "test");
    EXPECT_EQ(H5Dget_offset(bytes) % kShardAlignment, 0u);
    const auto begin = H5Dget_offset(bytes);
    const auto all = read_file(file);
    const ShardRecord first = test_record(0);
    EXPECT_TRUE(std::equal(first.image.begin(), first.image.end(),
                           all.begin() + static_cast<int64_t>(begin)));
  }
}

TEST(Shard, EqualRecordsGiveEqualBytes) {
  const TemporaryFolder a, b;
  EXPECT_EQ(read_file(write_one(a, 20)), read_file(write_one(b, 20)));
}

TEST(Shard, LeavesNoTemporaryFile) {
  const TemporaryFolder folder;
  write_one(folder, 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
  ShardWriter writer(folder.path() / "none" / "x.h5", {"x", "x", 0, 1}, test_columns());
  writer.add(test_record(0));
  EXPECT_THAT(error_of([&] { writer.finish(); }), HasSubstr("cannot write shard"));
  EXPECT_FALSE(fs::exists(folder.path() / "none"));
}

TEST(Shard, DamagedImageNamesSetShardAndSample) {
  const TemporaryFolder folder;
  const fs::path file = write_one(folder, 5);
  auto bytes = read_file(file);
  const auto image = test_record(3).image;
  const auto at = std::search(bytes.begin(), bytes.end(), image.begin(), image.end());
  ASSERT_NE(at, bytes.end());
  at[static_cast<int64_t>(image.size() / 2)] ^= 1;
  write_file(file, bytes);
  const ShardReader shard(file);
  std::vector<uint8_t> out;
  EXPECT_NO_THROW(shard.read_image(2, out));
  const std::string message = error_of([&] { shard.read_image(3, out); });
  EXPECT_THAT(message, HasSubstr("set 'tiny'"));
  EXPECT_THAT(message, HasSubstr(file.string()));
  EXPECT_THAT(message, HasSubstr("sample 3"));
  EXPECT_THAT(message, HasSubstr("wrong checksum"));
  EXPECT_THAT(error_of([&] { shard.verify_content(); }), HasSubstr("whole content"));
}

TEST(Shard, DamagedLabelIsFoundByVerify) {
  const TemporaryFolder folder;
  const fs::path file = write_one(folder, 5);
  {
    const std::lock_guard lock(hdf5_mutex());
    const Hdf5Handle root(H5Fopen(file.c_str(), H5F_ACC_RDWR, H5P_DEFAULT), H5Fclose, "test");
    const Hdf5Handle labels(H5Dopen2(root, "labels/identity", H5P_DEFAULT), H5Dclose, "test");
    const std::vector<int64_t> other{0, 0, 1, 1, 1};
    hdf5_check(H5Dwrite(labels, H5T_STD_I64LE, H5S_ALL, H5S_ALL, H5P_DEFAULT, other.data()),
               "test");
  }
  EXPECT_THAT(error_of([&] { ShardReader(file).verify_content(); }), HasSubstr("whole content"));
}

TEST(Shard, FutureVersionIsRefused) {
  const TemporaryFolder folder;
  const fs::path file = write_one(folder, 2);
  set_root(file, "version", kShardVersion + 1);
  const std::string message = error_of([&] { ShardReader{file}; });
  EXPECT_THAT(message, HasSubstr("format version 2"));
  EXPECT_THAT(message, HasSubstr("newer facetrain"));
}

TEST(Shard, TruncatedFileIsRefused) {
  const TemporaryFolder folder;
  const fs::path file = write_one(folder, 30);
  const auto whole = read_file(file);
  for (const size_t length :
       {size_t{0}, size_t{7}, size_t{600}, whole.size() / 2, whole.size() - 1}) {
    write_file(file, {whole.begin(), whole.begin() + static_cast<int64_t>(length)});
    EXPECT_THAT(error_of([&] { ShardReader{file}; }), HasSubstr(file.string())) << length;
  }
  auto longer = whole;
  longer.push_back(0);
  write_file(file, longer);
  EXPECT_THAT(error_of([&] { ShardReader{file}; }), HasSubstr("truncated or damaged"));
}

TEST(Shard, FileThatShrinksWhileOpenIsAnError) {
  const TemporaryFolder folder;
  const fs::path file = write_one(folder, 30);
  const ShardReader shard(file);
  fs::resize_file(file, 5000);
  std::vector<uint8_t> bytes;
  EXPECT_THAT(error_of([&] { shard.read_image(29, bytes); }), HasSubstr("became shorter"));
}

TEST(Shard, ForeignFilesAreRefused) {
  const TemporaryFolder folder;
  const fs::path file = folder.path() / "foreign.h5";
  {
    const std::lock_guard lock(hdf5_mutex());
    const Hdf5Handle root(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT),
                          H5Fclose, "test");
  }
  EXPECT_THAT(error_of([&] { ShardReader{file}; }), HasSubstr("an HDF5 file, but not a shard"));
  write_file(folder.path() / "text.h5", {'h', 'e', 'l', 'l', 'o'});
  EXPECT_THAT(error_of([&] { ShardReader{folder.path() / "text.h5"}; }), HasSubstr("not a shard"));
  EXPECT_THAT(error_of([&] { ShardReader{folder.path() / "none.h5"}; }), HasSubstr("cannot open"));
  EXPECT_THAT(error_of([&] { ShardReader{folder.path()}; }), HasSubstr("not a regular file"));
}

TEST(Shard, WriterRefusesWrongLabels) {
  const TemporaryFolder folder;
  ShardWriter writer(folder.path() / "x.h5", {"x", "x", 0, 1}, test_columns());
  ShardRecord record = test_record(0);
  record.set("pose", 1.0f);
  EXPECT_THAT(error_of([&] { writer.add(record); }), HasSubstr("no column"));
  ShardWriter other(folder.path() / "x.h5", {"x", "x", 0, 1}, test_columns());
  record = test_record(0);
  record.set("identity", int32_t{1});
  EXPECT_THAT(error_of([&] { other.add(record); }), HasSubstr("wants 8 bytes, found 4"));
  ShardWriter empty(folder.path() / "x.h5", {"x", "x", 0, 1}, test_columns());
  EXPECT_THAT(error_of([&] { empty.finish(); }), HasSubstr("at least one record"));
}

}  // namespace
}  // namespace facetrain
