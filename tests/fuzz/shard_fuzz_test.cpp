// Mutated shards and images: every one is either read as written or an Error, within bounded time;
// nothing else.
#include <gtest/gtest.h>

#include <chrono>

#include "core/random.h"
#include "data/file_list.h"
#include "data/shard_reader.h"
#include "tests/support/data_support.h"

namespace facetrain {
namespace {

using Clock = std::chrono::steady_clock;
using Bytes = std::vector<uint8_t>;

double budget_seconds() {
  const char* text = std::getenv("FACETRAIN_FUZZ_SECONDS");
  return text ? std::atof(text) : 5.0;
}

// One of: flipped bits, random bytes, a truncation, a repeated or removed stretch, an interesting
// number.
Bytes mutate(const Bytes& whole, Random& random) {
  Bytes bytes = whole;
  const auto somewhere = [&] {
    return static_cast<size_t>(random.below(static_cast<int64_t>(bytes.size())));
  };
  for (int64_t count = 1 + random.below(4); count > 0 && bytes.size() > 16; --count) {
    switch (random.below(6)) {
      case 0:
        bytes[somewhere()] ^= static_cast<uint8_t>(1 << random.below(8));
        break;
      case 1:
        for (size_t at = somewhere(), end = std::min(at + 9, bytes.size()); at < end; ++at)
          bytes[at] = static_cast<uint8_t>(random.below(256));
        break;
      case 2:
        bytes.resize(somewhere() + 1);
        break;
      case 3: {
        const size_t at = somewhere(), length = std::min<size_t>(bytes.size() - at, 64);
        const Bytes part(bytes.begin() + static_cast<int64_t>(at),
                         bytes.begin() + static_cast<int64_t>(at + length));
        bytes.insert(bytes.begin() + static_cast<int64_t>(somewhere()), part.begin(), part.end());
        break;
      }
      case 4: {
        const size_t at = somewhere(), length = std::min<size_t>(bytes.size() - at, 64);
        bytes.erase(bytes.begin() + static_cast<int64_t>(at),
                    bytes.begin() + static_cast<int64_t>(at + length));
        break;
      }
      default: {
        constexpr uint64_t kNumbers[] = {0, 0xffffffffffffffffULL, 0x7fffffffffffffffULL, 1,
                                         0x80000000ULL};
        const uint64_t number = kNumbers[random.below(5)];
        const size_t at = somewhere();
        std::memcpy(&bytes[at], &number, std::min<size_t>(8, bytes.size() - at));
      }
    }
  }
  return bytes;
}

// Runs `attempt(round)` until the time is up; any exception but Error fails the test.
void fuzz(const std::function<void(int64_t)>& attempt) {
  const auto start = Clock::now();
  int64_t round = 0, errors = 0;
  while (std::chrono::duration<double>(Clock::now() - start).count() < budget_seconds()) {
    try {
      attempt(round++);
    } catch (const Error& error) {
      ASSERT_STRNE(error.what(), "");
      ++errors;
    }
  }
  testing::Test::RecordProperty("rounds", std::to_string(round));
  std::printf("%lld rounds, %lld errors\n", static_cast<long long>(round),
              static_cast<long long>(errors));
  EXPECT_GT(round, 50);
  EXPECT_GT(errors, round / 10) << "the mutations must do damage";
}

TEST(ShardFuzz, DamagedShardsAreErrors) {
  const TemporaryFolder folder;
  write_test_set(folder.path(), 6, 6);
  const auto file = folder.path() / "tiny-00000.h5";
  const Bytes whole = read_file(file);
  std::vector<Bytes> images;
  for (int64_t i = 0; i < 6; ++i) images.push_back(test_record(i).image);
  fuzz([&](int64_t round) {
    Random random(random_key(1, round));
    // Same length as written, so that the check of the file's length does not hide what lies behind
    // it.
    Bytes bytes = mutate(whole, random);
    if (random.chance(0.7)) bytes.resize(whole.size());
    const auto mutated = folder.path() / "mutated.h5";
    write_file(mutated, bytes);
    const ShardReader shard(mutated);
    Bytes image;
    for (int64_t i = 0; i < shard.size(); ++i) {
      shard.read_image(i, image);
      ASSERT_LT(i, 6);
      ASSERT_EQ(image, images[static_cast<size_t>(i)]) << "round " << round;
      for (size_t c = 0; c < shard.columns().size(); ++c) static_cast<void>(shard.value(c, i));
    }
    shard.verify_content();
    const auto source = open_source(mutated.string(), {});
    for (int64_t i = 0; i < source->size(); ++i) source->read(i);
  });
}

TEST(ShardFuzz, DamagedImagesAreErrors) {
  const Image noise = smooth_image(3, 33, 21);
  std::string pnm = "P6\n#c\n33 21\n255\n";
  pnm.insert(pnm.end(), noise.pixels.begin(), noise.pixels.end());
  const std::vector<Bytes> seeds{encode_jpeg(noise, 90), encode_jpeg(noise, 60, Chroma::k444),
                                 encode_png(noise), Bytes(pnm.begin(), pnm.end()),
                                 test_record(1).labels.at("mask")};
  fuzz([&](int64_t round) {
    Random random(random_key(2, round));
    const Bytes bytes = mutate(seeds[static_cast<size_t>(random.below(5))], random);
    const ImageInfo info = probe_image(bytes);
    if (int64_t{info.width} * info.height > 1 << 22)
      return;  // a forged size: legal, but slow to fill
    const Image image = decode_image(bytes);
    ASSERT_EQ(image.pixels.size(), static_cast<size_t>(image.width) * image.height * 3);
    if (random.chance(0.3)) decode_mask(bytes);
  });
}

TEST(ShardFuzz, DamagedListsAreErrors) {
  const TemporaryFolder folder;
  write_tiny_faces(folder.path() / "a", 2, 2, 4);
  const std::string text = "a/id_000/000.ppm\t0\na/id_000/001.ppm\t0\na/id_001/000.ppm\t1\n";
  fuzz([&](int64_t round) {
    Random random(random_key(3, round));
    write_file(folder.path() / "list", mutate({text.begin(), text.end()}, random));
    const FileList list = read_list(folder.path() / "list");
    ASSERT_FALSE(list.items.empty());
  });
}

}  // namespace
}  // namespace facetrain
