#include "data/synthetic_scene.h"

#include "core/random.h"

namespace facetrain::synthetic {
namespace {

float in(Random& random, double low, double high) {
  return static_cast<float>(random.uniform(low, high));
}

Vec3 muted(Random& random, double low, double high, double most_chroma) {
  const float grey = in(random, low, high), chroma = in(random, 0, most_chroma);
  const float hue = in(random, 0, 6.2832);
  return {grey * (1 + chroma * std::cos(hue)), grey * (1 + chroma * std::cos(hue - 2.0944f)),
          grey * (1 + chroma * std::cos(hue + 2.0944f))};
}

// A scene on a coarse grid: the upscaling is what puts it out of focus.
class Backdrop {
 public:
  Backdrop(uint64_t key, int side) : random_(key), side_(side), grid_(side * side) {}

  void paint() {
    const double kind = random_.uniform();
    if (kind < 0.25) return studio();
    if (kind < 0.55) return room();
    if (kind < 0.80) return outdoors();
    lights();
  }
  void soften() {
    std::vector<Vec3> old = grid_;
    for (int y = 0; y < side_; ++y) {
      for (int x = 0; x < side_; ++x) {
        const auto get = [&](int dx, int dy) {
          return old[std::clamp(y + dy, 0, side_ - 1) * side_ + std::clamp(x + dx, 0, side_ - 1)];
        };
        grid_[y * side_ + x] =
            get(0, 0) * 0.4f + (get(-1, 0) + get(1, 0) + get(0, -1) + get(0, 1)) * 0.15f;
      }
    }
  }
  // Enlarges the grid to size x size.
  void enlarge(int size, Vec3* out) const {
    struct Place {
      int index;
      float part;  // of the next one
    };
    std::vector<Place> places(size);
    for (int i = 0; i < size; ++i) {
      const float at = (i + 0.5f) * static_cast<float>(side_) / size - 0.5f;
      const float inside = std::clamp(at, 0.0f, side_ - 1.001f);
      places[i] = {static_cast<int>(inside), inside - std::floor(inside)};
    }
    std::vector<Vec3> line(side_);
    for (const auto& [y, down] : places) {
      const Vec3* row = &grid_[y * side_];
      for (int i = 0; i < side_; ++i) line[i] = mix(row[i], row[i + side_], down);
      for (const auto& [x, across] : places) *out++ = mix(line[x], line[x + 1], across);
    }
  }

 private:
  // The pixels whose middles lie in a box; a scene is one unit wide.
  template <class Colour>
  void fill(float x0, float y0, float x1, float y1, Colour colour) {
    const auto first = [&](float at) { return std::max(0, static_cast<int>(at * side_ - 0.5f)); };
    const auto end = [&](float at) { return std::min(side_, static_cast<int>(at * side_ + 0.5f)); };
    for (int y = first(y0); y < end(y1); ++y) {
      for (int x = first(x0); x < end(x1); ++x) {
        Vec3& pixel = grid_[y * side_ + x];
        pixel = colour((x + 0.5f) / side_, (y + 0.5f) / side_, pixel);
      }
    }
  }
  template <class Colour>
  void fill(Colour colour) {
    fill(0, 0, 1, 1, colour);
  }
  void box(float x0, float y0, float x1, float y1, Vec3 colour, float strength) {
    constexpr float kSoft = 0.015f;
    fill(x0 - kSoft, y0 - kSoft, x1 + kSoft, y1 + kSoft, [&](float x, float y, Vec3 old) {
      const float edge = std::min(std::min(x - x0, x1 - x), std::min(y - y0, y1 - y));
      return mix(old, colour, strength * smooth(-kSoft, 0.02f, edge));
    });
  }
  void wall(Vec3 colour) {
    const float slant = in(random_, -0.5, 0.5), fall = in(random_, -0.6, 0.3);
    const float shift = in(random_, 0, 90);
    fill([&](float x, float y, Vec3) {
      return colour * (1 + slant * (x - 0.5f) + fall * (y - 0.5f) +
                       0.12f * (noise2(4 * x + shift, 4 * y) - 0.5f));
    });
  }
  void studio() {
    wall(muted(random_, 0.04, 0.5, 0.22));
    const float x0 = in(random_, 0.2, 0.8), y0 = in(random_, 0.1, 0.6), glow = in(random_, 0, 0.6);
    fill([&](float x, float y, Vec3 old) {
      return old * (1 + glow * bump((x - x0) / 0.8f, (y - y0) / 0.8f));
    });
  }
  void room() {
    wall(muted(random_, 0.10, 0.55, 0.16));
    const int boxes = 2 + static_cast<int>(random_.below(4));
    for (int i = 0; i < boxes; ++i) {  // doors, frames, shelves, windows
      const float x = in(random_, -0.2, 1), y = in(random_, -0.2, 0.8);
      const float w = in(random_, 0.08, 0.5), h = in(random_, 0.1, 1.0);
      const Vec3 colour = random_.chance(0.2) ? Vec3{1.0f, 0.98f, 0.92f} * in(random_, 0.7, 1.2)
                                              : muted(random_, 0.03, 0.45, 0.35);
      box(x, y, x + w, y + h, colour, in(random_, 0.4, 0.95));
      if (random_.chance(0.4))
        box(x + 0.15f * w, y + 0.1f * h, x + 0.85f * w, y + 0.9f * h, colour * 0.7f, 0.7f);
    }
  }
  void outdoors() {
    const float horizon = in(random_, 0.15, 0.8), shift = in(random_, 0, 90);
    const Vec3 zenith = Vec3{0.30f, 0.45f, 0.72f} * in(random_, 0.4, 1.1),
               haze = Vec3{0.75f, 0.77f, 0.78f} * in(random_, 0.6, 1.1);
    const Vec3 leaves =
        mix(Vec3{0.07f, 0.12f, 0.035f}, Vec3{0.16f, 0.12f, 0.06f}, in(random_, 0, 1)) *
        in(random_, 0.6, 1.8);
    fill([&](float x, float y, Vec3) {
      const Vec3 sky = mix(haze, zenith, clamp01(1 - y / horizon));
      const float line = horizon + 0.25f * (noise2(3 * x + shift, 2) - 0.5f);
      const float leaf = 0.35f + 1.3f * noise2(9 * x + shift, 9 * y);
      return mix(sky, leaves * leaf, smooth(-0.04f, 0.06f, y - line));
    });
    if (!random_.chance(0.5)) return;
    const int houses = 1 + static_cast<int>(random_.below(3));
    for (int i = 0; i < houses; ++i) {
      const float x = in(random_, -0.2, 0.9), w = in(random_, 0.15, 0.45);
      box(x, horizon - in(random_, 0.1, 0.6), x + w, horizon + 0.3f,
          muted(random_, 0.08, 0.45, 0.25), 0.9f);
    }
  }
  void lights() {
    wall(muted(random_, 0.02, 0.16, 0.5));
    const int discs = 4 + static_cast<int>(random_.below(9));
    for (int i = 0; i < discs; ++i) {
      const float x0 = in(random_, 0, 1), y0 = in(random_, 0, 1), r = in(random_, 0.05, 0.14);
      const Vec3 colour =
          mix(Vec3{0.9f, 0.65f, 0.35f}, Vec3{0.6f, 0.7f, 0.85f}, in(random_, 0, 1)) *
          in(random_, 0.2, 0.9);
      fill(x0 - r, y0 - r, x0 + r, y0 + r, [&](float x, float y, Vec3 old) {
        const float d = std::sqrt(square(x - x0) + square(y - y0));
        return old + colour * smooth(r, 0.75f * r, d);
      });
    }
  }

  Random random_;
  int side_;
  std::vector<Vec3> grid_;
};

float capsule(float x, float y, float ax, float ay, float bx, float by, float radius) {
  const float t =
      clamp01(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / (square(bx - ax) + square(by - ay)));
  return std::sqrt(square(x - mix(ax, bx, t)) + square(y - mix(ay, by, t))) - radius;
}

float rounded_box(float x, float y, float w, float h, float corner) {
  const float dx = std::max(std::abs(x) - w + corner, 0.0f),
              dy = std::max(std::abs(y) - h + corner, 0.0f);
  return std::sqrt(dx * dx + dy * dy) - corner;
}

// Signed distance (negative inside) and colour at a point of the occluder's own plane; units are
// pixels of a 112-pixel image.
struct Covering {
  float distance;
  Vec3 colour;
};

class OccluderShape {
 public:
  OccluderShape(Occluder kind, uint64_t key) : kind_(kind), random_(key) {
    colour_ = muted(random_, 0.04, 0.5, 0.5);
    const float tone = in(random_, 0, 1);
    skin_ = mix(Vec3{0.62f, 0.39f, 0.30f}, Vec3{0.16f, 0.085f, 0.055f}, tone);
    const bool left = random_.chance(0.5);
    const float side = left ? -1.0f : 1.0f;
    x_ = 56 + side * in(random_, 10, 34), y_ = in(random_, 80, 108),
    angle_ = side * in(random_, -0.2, 0.9);
    mirror_ = side, size_ = in(random_, 0.85, 1.15);
    if (kind == Occluder::kCup)
      x_ = 56 + in(random_, -12, 12), y_ = in(random_, 100, 112), angle_ = in(random_, -0.25, 0.25);
    if (kind == Occluder::kPhone) x_ = 56 + side * in(random_, 22, 44), y_ = in(random_, 55, 95);
    if (kind == Occluder::kBlur) x_ = 56 + side * in(random_, 40, 62), y_ = in(random_, 20, 112);
  }
  float softness() const { return kind_ == Occluder::kBlur ? 9.0f : 0.8f; }
  Covering at(float px, float py) const {
    const float dx = (px - x_) / size_, dy = (py - y_) / size_;
    const float c = std::cos(angle_), s = std::sin(angle_);
    const float x = mirror_ * (c * dx + s * dy), y = -s * dx + c * dy;
    if (kind_ == Occluder::kHand) return hand(x, y);
    if (kind_ == Occluder::kPhone) return phone(x, y);
    if (kind_ == Occluder::kCup) return cup(x, y);
    const float d = std::sqrt(square(x / 1.3f) + square(y)) - 24;
    return {d, colour_ * (0.9f + 0.3f * noise2(0.05f * px, 0.05f * py))};
  }

 private:
  Covering hand(float x, float y) const {
    // Four fingers, a thumb and the palm, each round in itself.
    static constexpr float kTips[5][3] = {
        {-13, -26, 4.6f}, {-4.5f, -31, 4.9f}, {4.5f, -29, 4.8f}, {13, -22, 4.2f}, {-27, -3, 5.2f}};
    static constexpr float kRoots[5][2] = {{-10, 6}, {-3.5f, 4}, {3.5f, 5}, {10, 8}, {-9, 18}};
    float best = rounded_box(x, y - 20, 15.5f, 20, 9), round = 15;
    for (int i = 0; i < 5; ++i) {
      const float d =
          capsule(x, y, kRoots[i][0], kRoots[i][1], kTips[i][0], kTips[i][1], kTips[i][2]);
      if (d < best) best = d, round = kTips[i][2];
      // A nail near each tip.
    }
    float shade = 0.45f + 0.55f * smooth(0.0f, -0.8f * round, best);
    shade *= 0.94f + 0.12f * noise2(0.25f * x + 30, 0.25f * y);
    for (const auto& tip : kTips) {
      const float nail = square((x - tip[0]) / 2.4f) + square((y - tip[1] + 1.0f) / 3.2f);
      if (nail < 1) shade *= 1.12f;
    }
    return {best,
            skin_ * Vec3{shade, shade * (0.75f + 0.25f * shade), shade * (0.7f + 0.3f * shade)}};
  }
  Covering phone(float x, float y) const {
    const float d = rounded_box(x, y, 15, 30, 4);
    const float rim = smooth(-1.6f, -0.4f, d),
                lens = std::sqrt(square(x + 8) + square(y + 22)) - 3.2f;
    Vec3 colour = mix(colour_ * 0.25f, Vec3{0.01f, 0.01f, 0.012f}, smooth(0.6f, -0.6f, lens));
    colour += Vec3{0.10f, 0.10f, 0.11f} * smooth(-20, 30, x + y);
    return {d, mix(colour, Vec3{0.25f, 0.25f, 0.26f}, 0.7f * rim)};
  }
  Covering cup(float x, float y) const {
    const float half = 15 - 0.09f * y, d = std::max(std::abs(x) - half, std::max(-24 - y, y - 40));
    const float round = std::sqrt(std::max(0.0f, 1 - square(x / half)));
    const bool lid = y<-18, sleeve = y> - 8;
    const Vec3 paper = lid      ? Vec3{0.55f, 0.54f, 0.53f}
                       : sleeve ? mix(colour_, Vec3{0.30f, 0.19f, 0.11f}, 0.5f)
                                : Vec3{0.72f, 0.70f, 0.66f};
    return {d, paper * (0.35f + 0.65f * round) * (std::abs(y + 18) < 0.8f ? 0.6f : 1.0f)};
  }

  Occluder kind_;
  Random random_;
  Vec3 colour_, skin_;
  float x_ = 0, y_ = 0, angle_ = 0, mirror_ = 1, size_ = 1;
};

// 8-bit levels as floats, three a pixel.
using Levels = std::vector<float>;

Levels tone_map(const Lighting& light, const Canvas& canvas) {
  // Tabulated over the square root, where the curve is nearly straight.
  constexpr int kEntries = 512, kStrip = 384;
  constexpr float kMost = 2.0f;  // square root of the brightest light that is told apart
  float curve[kEntries + 2];
  for (int i = 0; i < kEntries + 2; ++i) {
    const float root = kMost * static_cast<float>(i) / kEntries, x = root * root;
    const float shoulder = x < 0.7f ? x : 0.7f + 0.3f * (1 - std::exp(-(x - 0.7f) / 0.3f));
    curve[i] = 255 * std::pow(shoulder, light.gamma / 2.2f);
  }
  const float wash = (1 - light.saturation) * light.gain, own = light.saturation * light.gain;
  Levels levels(3 * canvas.pixels.size());
  std::array<float, kStrip> places;
  for (size_t begin = 0; begin < canvas.pixels.size(); begin += kStrip / 3) {
    const int count = static_cast<int>(std::min<size_t>(kStrip / 3, canvas.pixels.size() - begin));
    const Vec3* in = &canvas.pixels[begin];
    for (int i = 0; i < count; ++i) {
      const float grey = wash * (0.3f * in[i].x + 0.6f * in[i].y + 0.1f * in[i].z);
      places[3 * i] = own * in[i].x + grey;
      places[3 * i + 1] = own * in[i].y + grey;
      places[3 * i + 2] = own * in[i].z + grey;
    }
    for (float& place : places) place = std::max(place, 0.0f);
    for (float& place : places) place = std::sqrt(place) * (kEntries / kMost);
    for (float& place : places) place = std::min(place, kEntries - 0.5f);
    float* out = &levels[3 * begin];
    for (int i = 0; i < 3 * count; ++i) {
      const int k = static_cast<int>(places[i]);
      out[i] = mix(curve[k], curve[k + 1], places[i] - static_cast<float>(k));
    }
  }
  return levels;
}

// Resamples rows, then columns: `weights(target, source)` is a tent as wide as the coarser grid.
Levels resample(const Levels& from, int old_size, int new_size) {
  const float ratio = static_cast<float>(old_size) / new_size, reach = std::max(1.0f, ratio);
  const auto pass = [&](const Levels& source, int rows, bool across) {
    const int width = across ? new_size : old_size;
    Levels out(static_cast<size_t>(3) * rows * width);
    const int lines = across ? rows : width, targets = across ? new_size : rows;
    for (int target = 0; target < targets; ++target) {
      const float middle = (target + 0.5f) * ratio - 0.5f;
      const int low = std::max(0, static_cast<int>(std::ceil(middle - reach)));
      const int high = std::min(old_size - 1, static_cast<int>(std::floor(middle + reach)));
      float total = 0;
      for (int k = low; k <= high; ++k) total += 1 - std::abs(k - middle) / reach;
      for (int k = low; k <= high; ++k) {
        const float weight = (1 - std::abs(k - middle) / reach) / total;
        for (int line = 0; line < lines; ++line) {
          const size_t to = across ? static_cast<size_t>(line) * width + target
                                   : static_cast<size_t>(target) * width + line;
          const size_t at = across ? static_cast<size_t>(line) * old_size + k
                                   : static_cast<size_t>(k) * width + line;
          for (int c = 0; c < 3; ++c) out[3 * to + c] += weight * source[3 * at + c];
        }
      }
    }
    return out;
  };
  const Levels rows = pass(from, new_size, false);
  return pass(rows, new_size, true);
}

void add_pair(const float* before, const float* after, float weight, int count, float* out) {
  for (int i = 0; i < count; ++i) out[i] += weight * (before[i] + after[i]);
}

void blur(Levels& levels, int size, float sigma) {
  if (sigma < 0.28f) return;  // less than half a percent from the neighbours
  const int reach = std::max(1, static_cast<int>(std::ceil(2.5f * sigma)));
  std::vector<float> weights(reach + 1);
  float total = 0;
  for (int k = 0; k <= reach; ++k) {
    weights[k] = std::exp(-0.5f * square(k / sigma));
    total += k == 0 ? weights[k] : 2 * weights[k];
  }
  for (float& weight : weights) weight /= total;
  const int row = 3 * size;
  Levels padded(static_cast<size_t>(row) + 6 * reach), across(levels.size());
  for (int y = 0; y < size; ++y) {
    const float* from = &levels[static_cast<size_t>(y) * row];
    for (int i = 0; i < 3 * reach; ++i) {  // the border is repeated
      padded[i] = from[i % 3];
      padded[padded.size() - 3 * reach + i] = from[row - 3 + i % 3];
    }
    std::copy_n(from, row, &padded[3 * reach]);
    const float* middle = &padded[3 * reach];
    float* out = &across[static_cast<size_t>(y) * row];
    for (int i = 0; i < row; ++i) out[i] = weights[0] * middle[i];
    for (int k = 1; k <= reach; ++k) add_pair(middle - 3 * k, middle + 3 * k, weights[k], row, out);
  }
  for (int y = 0; y < size; ++y) {
    const auto line = [&](int at) { return &across[std::clamp(at, 0, size - 1) * size_t(row)]; };
    float* out = &levels[static_cast<size_t>(y) * row];
    for (int i = 0; i < row; ++i) out[i] = weights[0] * line(y)[i];
    for (int k = 1; k <= reach; ++k) add_pair(line(y - k), line(y + k), weights[k], row, out);
  }
}

// Adds noise and rounds. The sum of two bytes is spread like a triangle, with a deviation of 104.5:
// near enough to a sensor's noise, and four come from one word.
std::vector<uint8_t> add_noise(const Levels& levels, float deviation, uint64_t key) {
  std::vector<uint16_t> sums((levels.size() + 3) / 4 * 4);
  for (size_t i = 0; i < sums.size(); i += 4) {
    const uint64_t word = mix_bits(key + i);
    const uint64_t four = (word & 0x00ff00ff00ff00ffULL) + ((word >> 8) & 0x00ff00ff00ff00ffULL);
    for (int k = 0; k < 4; ++k) sums[i + k] = static_cast<uint16_t>(four >> (16 * k));
  }
  std::vector<uint8_t> out(levels.size());
  const float scale = deviation / 104.5f, shift = 0.5f - 255 * scale;
  for (size_t i = 0; i < levels.size(); ++i) {
    const float level = levels[i] + scale * static_cast<float>(sums[i]) + shift;
    out[i] = static_cast<uint8_t>(static_cast<int>(std::min(std::max(level, 0.0f), 255.0f)));
  }
  return out;
}

}  // namespace

Canvas paint_background(const Nuisance& nuisance, int size) {
  Canvas canvas{size, std::vector<Vec3>(static_cast<size_t>(size) * size)};
  if (!nuisance.background) {
    std::fill(canvas.pixels.begin(), canvas.pixels.end(), Vec3{0.24f, 0.24f, 0.24f});
    return canvas;
  }
  Backdrop backdrop(random_key(nuisance.key, name_key("background")),
                    nuisance.key % 3 == 0 ? 44 : 28);
  backdrop.paint();
  backdrop.soften();
  backdrop.enlarge(size, canvas.pixels.data());
  return canvas;
}

void paint_occluder(const Nuisance& nuisance, Canvas& canvas, std::vector<float>& cover) {
  const int size = canvas.size;
  cover.clear();
  if (nuisance.occluder == Occluder::kNone) return;
  cover.resize(static_cast<size_t>(size) * size);
  const OccluderShape shape(nuisance.occluder, random_key(nuisance.key, name_key("occluder")));
  const float unit_pixel = 112.0f / size, soft = shape.softness();
  const Vec3 light =
      nuisance.light.tint * (0.65f * nuisance.light.key + 0.9f * nuisance.light.ambient);
  for (int y = 0; y < size; ++y) {
    for (int x = 0; x < size; ++x) {
      const Covering covering =
          shape.at((x + 0.5f) * unit_pixel - 0.5f, (y + 0.5f) * unit_pixel - 0.5f);
      const float alpha = smooth(soft, -soft, covering.distance);
      if (alpha <= 0) continue;
      cover[y * size + x] = alpha;
      Vec3& pixel = canvas.pixels[y * size + x];
      pixel = mix(pixel, covering.colour * light, alpha);
    }
  }
}

Image develop(const Nuisance& nuisance, const Canvas& canvas) {
  const int size = canvas.size;
  Levels levels = tone_map(nuisance.light, canvas);
  if (nuisance.resolution < 1) {
    const int coarse = std::max(8, static_cast<int>(std::lround(size * nuisance.resolution)));
    levels = resample(resample(levels, size, coarse), coarse, size);
  }
  blur(levels, size, nuisance.blur * static_cast<float>(size) / 112);
  const uint64_t key = random_key(nuisance.key, name_key("noise"));
  return {size, size, 3, add_noise(levels, nuisance.noise, key)};
}

}  // namespace facetrain::synthetic
