// Small vectors, smooth functions and tabulated noise for the face renderer.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>

#include "core/random.h"

namespace facetrain::synthetic {

inline constexpr float kPi = 3.14159265f;

// A point, a direction or a linear-light colour (x = red, y = green, z = blue).
struct Vec3 {
  float x = 0, y = 0, z = 0;
};

constexpr Vec3 operator+(Vec3 a, Vec3 b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }
constexpr Vec3 operator-(Vec3 a, Vec3 b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
constexpr Vec3 operator*(Vec3 a, float s) { return {a.x * s, a.y * s, a.z * s}; }
constexpr Vec3 operator*(Vec3 a, Vec3 b) { return {a.x * b.x, a.y * b.y, a.z * b.z}; }
constexpr Vec3& operator+=(Vec3& a, Vec3 b) { return a = a + b; }
constexpr float dot(Vec3 a, Vec3 b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
constexpr Vec3 cross(Vec3 a, Vec3 b) {
  return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
inline Vec3 unit(Vec3 a) { return a * (1.0f / std::sqrt(std::max(dot(a, a), 1e-12f))); }

constexpr float mix(float a, float b, float t) { return a + (b - a) * t; }
constexpr Vec3 mix(Vec3 a, Vec3 b, float t) { return a + (b - a) * t; }
constexpr float clamp01(float x) { return std::min(std::max(x, 0.0f), 1.0f); }
// 0 below `low`, 1 above `high`, smooth between; `low` may exceed `high`.
constexpr float smooth(float low, float high, float x) {
  const float t = clamp01((x - low) * (1 / (high - low)));
  return t * t * (3 - 2 * t);
}
// 1 at the origin, 0 from the unit circle on; the argument is the squared distance.
constexpr float bump(float squared) {
  const float t = std::max(1 - squared, 0.0f);
  return t * t * t;
}
constexpr float square(float x) { return x * x; }
constexpr float bump(float x, float y) { return bump(x * x + y * y); }
constexpr float power4(float x) { return square(square(x)); }
constexpr float power16(float x) { return power4(power4(x)); }

// An orthonormal matrix by rows.
struct Rotation {
  Vec3 x{1, 0, 0}, y{0, 1, 0}, z{0, 0, 1};
  Vec3 operator()(Vec3 v) const { return {dot(x, v), dot(y, v), dot(z, v)}; }
  Vec3 inverse(Vec3 v) const { return x * v.x + y * v.y + z * v.z; }
};

// Roll about the head's own axis, then pitch, then yaw: the forward direction of the result is
// (sin yaw cos pitch, sin pitch, cos yaw cos pitch), whatever the roll. Radians; x right, y up,
// z towards the camera. A positive roll leans the top of the head towards the image's right.
inline Rotation head_rotation(float yaw, float pitch, float roll) {
  const float cy = std::cos(yaw), sy = std::sin(yaw), cp = std::cos(pitch), sp = std::sin(pitch);
  const float cr = std::cos(roll), sr = std::sin(roll);
  const auto apply = [&](Vec3 v) {
    const Vec3 rolled{cr * v.x + sr * v.y, -sr * v.x + cr * v.y, v.z};
    const Vec3 pitched{rolled.x, cp * rolled.y + sp * rolled.z, -sp * rolled.y + cp * rolled.z};
    return Vec3{cy * pitched.x + sy * pitched.z, pitched.y, -sy * pitched.x + cy * pitched.z};
  };
  const Vec3 a = apply({1, 0, 0}), b = apply({0, 1, 0}), c = apply({0, 0, 1});
  return {{a.x, b.x, c.x}, {a.y, b.y, c.y}, {a.z, b.z, c.z}};
}

// The direction with this yaw and pitch.
inline Vec3 direction(float yaw, float pitch) {
  return {std::sin(yaw) * std::cos(pitch), std::sin(pitch), std::cos(yaw) * std::cos(pitch)};
}

// White noise on a lattice, as what smooth noise needs of each of its squares: the value at (u, v)
// of a square is a + b u + c v + d u v.
struct NoiseTable {
  static constexpr int kSide = 64;
  struct Square {
    float a, b, c, d;
  };
  constexpr NoiseTable() {
    const auto value = [](int x, int y) {
      const int i = (y % kSide) * kSide + x % kSide;
      return static_cast<float>(to_unit(mix_bits(0x5eed + static_cast<uint64_t>(i))));
    };
    for (int y = 0; y < kSide; ++y) {
      for (int x = 0; x < kSide; ++x) {
        const float a = value(x, y), right = value(x + 1, y), below = value(x, y + 1);
        square[y * kSide + x] = {a, right - a, below - a, value(x + 1, y + 1) - right - below + a};
      }
    }
  }
  std::array<Square, kSide * kSide> square{};
};
inline constexpr NoiseTable kNoiseTable;

// Smooth noise in [0, 1] with one random value a unit square; repeats every 64 units.
inline float noise(float x, float y) {
  const float fx = std::floor(x), fy = std::floor(y);
  const float tx = x - fx, ty = y - fy;
  const float u = tx * tx * (3 - 2 * tx), v = ty * ty * (3 - 2 * ty);
  constexpr int kMask = NoiseTable::kSide - 1;
  const int column = static_cast<int>(fx) & kMask, row = static_cast<int>(fy) & kMask;
  const auto& [a, b, c, d] = kNoiseTable.square[row * NoiseTable::kSide + column];
  return a + b * u + (c + d * u) * v;
}
// Two octaves of it, [0, 1].
inline float noise2(float x, float y) {
  return 0.65f * noise(x, y) + 0.35f * noise(2.17f * x + 31.4f, 2.17f * y + 17.7f);
}

// A cubic through (position, value) knots in rising order of position, flat outside of them.
template <int kKnots>
struct Curve {
  std::array<float, kKnots> position, value;
  float operator()(float at) const {
    if (at <= position[0]) return value[0];
    if (at >= position[kKnots - 1]) return value[kKnots - 1];
    int i = 0;
    while (at > position[i + 1]) ++i;
    const float width = position[i + 1] - position[i], t = (at - position[i]) / width;
    const float a = slope(i) * width, b = slope(i + 1) * width, d = value[i + 1] - value[i];
    return value[i] + t * (a + t * (3 * d - 2 * a - b + t * (a + b - 2 * d)));
  }

 private:
  float slope(int i) const {
    const int low = std::max(i - 1, 0), high = std::min(i + 1, kKnots - 1);
    return (value[high] - value[low]) / (position[high] - position[low]);
  }
};

}  // namespace facetrain::synthetic
