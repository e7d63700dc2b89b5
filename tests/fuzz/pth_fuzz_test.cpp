// Mutated .pth files of both forms: each reads, within what the file can hold, or throws an Error;
// never anything else, in bounded time and memory.
#include <gtest/gtest.h>
#include <torch/serialize.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

#include "core/check.h"
#include "core/pickle.h"
#include "core/random.h"
#include "core/torch.h"
#include "core/weights_file.h"
#include "tests/support/pth_bytes.h"

namespace facetrain {
namespace {

using pickled::dict;
using pickled::storage;
using pickled::tensor;
using pickled::whole;
using Clock = std::chrono::steady_clock;

double budget_seconds() {
  const char* text = std::getenv("FACETRAIN_FUZZ_SECONDS");
  return text ? std::atof(text) : 5.0;
}

// Bits, bytes, stretches and numbers, as they go wrong; `from` spares what lies before it.
std::string mutate(std::string bytes, Random& random, size_t from = 0) {
  const auto somewhere = [&](size_t span) {
    return from + static_cast<size_t>(random.below(static_cast<int64_t>(span)));
  };
  for (int64_t edits = 1 + random.below(3); edits > 0 && bytes.size() > from + 16; --edits) {
    const size_t at = somewhere(bytes.size() - from);
    const size_t length = std::min(bytes.size() - at, static_cast<size_t>(1 + random.below(40)));
    switch (random.below(7)) {
      case 0:
      case 1:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random.below(8)));
        break;
      case 2:
        bytes[at] = static_cast<char>(random.below(256));
        break;
      case 3:
        bytes.resize(at);
        break;
      case 4:
        bytes.erase(at, length);
        break;
      case 5:
        bytes.insert(at, bytes.substr(somewhere(bytes.size() - from), length));
        break;
      default: {
        constexpr uint64_t kNumbers[] = {0, ~uint64_t{0}, uint64_t{1} << 63, uint64_t{1} << 31, 1};
        const std::string number = little_endian(kNumbers[random.below(5)]);
        bytes.replace(at, std::min<size_t>(8, bytes.size() - at), number);
      }
    }
  }
  return bytes;
}

// Runs until the time is up; each attempt reads or throws an Error.
void fuzz(uint64_t seed, const std::function<void(Random&)>& attempt) {
  const auto start = Clock::now();
  int64_t rounds = 0, errors = 0;
  while (std::chrono::duration<double>(Clock::now() - start).count() < budget_seconds()) {
    Random random(random_key(seed, rounds++));
    try {
      attempt(random);
    } catch (const Error& error) {
      ASSERT_STRNE(error.what(), "");
      ++errors;
    }
  }
  std::printf("%lld rounds, %lld errors\n", static_cast<long long>(rounds),
              static_cast<long long>(errors));
  EXPECT_GT(rounds, 50);
  EXPECT_GT(errors, rounds / 10) << "the mutations must do damage";
  EXPECT_LT(errors, rounds) << "some mutations do none";
}

std::string zip_of_libtorch() {
  c10::Dict<std::string, torch::Tensor> table;
  table.insert("conv1.weight", torch::ones({4, 3, 3, 3}));
  table.insert("bn1.num_batches_tracked", torch::zeros({}, torch::kLong));
  table.insert("half", torch::ones({5}, torch::kHalf).t());
  const auto bytes = torch::pickle_save(table);
  return {bytes.begin(), bytes.end()};
}

std::string pickle_by_hand(const char* type) {
  const std::string floats = storage(type, "0", 6);
  return whole(dict({{"state_dict", dict({{"a", tensor(floats, 0, {2, 3}, {3, 1})},
                                          {"b", tensor(floats, 1, {2, 2}, {1, 2})}})},
                     {"args", pickled::call(pickled::global("argparse", "Namespace"), {}) + "}b"},
                     {"epoch", pickled::integer(3)}}));
}

void read_all(const std::filesystem::path& path, size_t size) {
  const auto file = open_weights_file(path);
  for (const auto& [name, info] : file->tensors()) {
    const auto values = file->read(name);
    ASSERT_EQ(values.sizes().vec(), info.shape);
    // What is larger than the file repeats its elements, and that is bounded (pth_file.cpp).
    ASSERT_LE(values.nbytes(), std::max<size_t>(size, size_t{8} << 24));
  }
}

TEST(PthFuzz, DamagedFilesAreErrors) {
  const auto path =
      std::filesystem::path(testing::TempDir()) / fmt::format("fuzz_{}.pth", getpid());
  const std::string six(24, '\x3f');
  const std::vector<std::string> seeds{
      zip_of_libtorch(), pth_bytes(pickle_by_hand("FloatStorage"), {{"0", six}}),
      legacy_pth_bytes(pickle_by_hand("FloatStorage"), {{"0", six, 6}})};
  fuzz(1, [&](Random& random) {
    // The legacy form is told by its first bytes: a damaged one is no file of ours at all.
    const auto which = static_cast<size_t>(random.below(3));
    const std::string bytes = mutate(seeds[which], random, which == 2 ? 15 : 0);
    read_all(write_bytes(path, bytes), bytes.size());
  });
  std::filesystem::remove(path);
}

// Behind a sound archive with a right checksum, where damage to a whole file seldom comes.
TEST(PthFuzz, DamagedPicklesAreErrors) {
  const auto path =
      std::filesystem::path(testing::TempDir()) / fmt::format("fuzz_pickle_{}.pth", getpid());
  fuzz(2, [&](Random& random) {
    const std::string pickle = mutate(pickle_by_hand("FloatStorage"), random, 2);
    read_all(write_bytes(path, pth_bytes(pickle, {{"0", std::string(24, '\0')}})), 4096);
  });
  std::filesystem::remove(path);
}

// Opcodes of every kind in any order.
TEST(PthFuzz, RandomOpcodesAreErrors) {
  const std::string operations =
      "(.012GJKMNQRTUXabcehijo]qst)u}BC\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90"
      "\x91\x92\x93\x94\x95\x96";
  fuzz(3, [&](Random& random) {
    std::string bytes;
    for (int64_t i = random.below(60); i >= 0; --i) {
      bytes +=
          operations[static_cast<size_t>(random.below(static_cast<int64_t>(operations.size())))];
      for (int64_t k = random.below(5); k > 0; --k)
        bytes += static_cast<char>(random.chance(0.7) ? random.below(4) : random.below(256));
    }
    const Pickle pickle(bytes + "N.", "fuzz", [](const std::string&) {});
    ASSERT_LT(pickle.root(), pickle.size());
    ASSERT_LE(pickle.size(), bytes.size() + 2);
  });
}

}  // namespace
}  // namespace facetrain
