// Counter-based randomness: every random number of the program is a function of a key, never of a
// generator's state.
//
// A key is mixed from what identifies the draw (seed, epoch, index, class, layer name ...). The
// same key gives the same numbers on any thread, rank, device, world size and after any resume.
// Header-only so that kernels can use it.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

namespace facetrain {

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words that passes
// avalanche tests.
constexpr uint64_t mix_bits(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

// Mixes words into one key. Order matters: random_key(a, b) != random_key(b, a).
template <class... Words>
constexpr uint64_t random_key(uint64_t first, Words... rest) {
  uint64_t key = mix_bits(first);
  ((key = mix_bits(key ^ mix_bits(static_cast<uint64_t>(rest) + 0x632be59bd9b4e019ULL))), ...);
  return key;
}

// The key of a name (FNV-1a, then mixed), for draws that belong to a layer or a transform.
constexpr uint64_t name_key(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return mix_bits(hash);
}

// A 64-bit word as a number in [0, 1): the top 53 bits.
constexpr double to_unit(uint64_t word) { return static_cast<double>(word >> 11) * 0x1.0p-53; }

// A short local stream of numbers from one key. Copy it freely; never keep it between samples or
// steps.
class Random {
 public:
  explicit constexpr Random(uint64_t key) : key_(key) {}

  constexpr uint64_t next() { return mix_bits(key_ + 0x9e3779b97f4a7c15ULL * counter_++); }
  // In [0, 1).
  constexpr double uniform() { return to_unit(next()); }
  // In [low, high).
  constexpr double uniform(double low, double high) { return low + (high - low) * uniform(); }
  // In {0, ..., bound - 1}; bound >= 1. The bias of at most bound / 2^64 is accepted.
  constexpr int64_t below(int64_t bound) {
    return static_cast<int64_t>(
        (static_cast<unsigned __int128>(next()) * static_cast<uint64_t>(bound)) >> 64);
  }
  constexpr bool chance(double probability) { return uniform() < probability; }
  // Standard normal by Box and Muller; two words a draw, no state kept.
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(6.283185307179586 * uniform());
  }
  double normal(double mean, double deviation) { return mean + deviation * normal(); }

 private:
  uint64_t key_;
  uint64_t counter_ = 0;
};

// A pseudo-random bijection of {0, ..., size - 1} with O(1) memory and access: a Feistel network of
// four rounds over the smallest even number of bits that holds `size`, walked along its cycle until
// it lands inside the range (Black, Rogaway 2002, "Ciphers with arbitrary finite domains").
class Permutation {
 public:
  constexpr Permutation(int64_t size, uint64_t key)
      : size_(static_cast<uint64_t>(size)), key_(key) {
    while ((uint64_t{1} << (2 * half_bits_)) < size_) ++half_bits_;
  }
  constexpr int64_t operator()(int64_t index) const {
    uint64_t x = static_cast<uint64_t>(index);
    do x = round_trip(x);
    while (x >= size_);
    return static_cast<int64_t>(x);
  }
  constexpr int64_t size() const { return static_cast<int64_t>(size_); }

 private:
  constexpr uint64_t round_trip(uint64_t x) const {
    const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
    uint64_t left = x >> half_bits_, right = x & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (mix_bits(key_ ^ mix_bits(right + (round << 56))) & mask);
      left = right;
      right = next;
    }
    return (left << half_bits_) | right;
  }
  uint64_t size_, key_;
  int half_bits_ = 1;
};

}  // namespace facetrain
