// Grid meshes, a camera, a z-buffer of four samples a pixel and a soft shadow map.
#pragma once

#include <cstdint>
#include <vector>

#include "data/synthetic_math.h"

namespace facetrain::synthetic {

enum class Material : uint8_t {
  kFace,
  kNeck,
  kEar,
  kHair,
  kClothes,
  kHat,
  kBrim,
  kMask,
  kFrame,
  kLens
};

// `u`, `v`, `w` mean what the material says; positions and normals are in the head's frame.
struct Vertex {
  Vec3 position, normal;
  float u = 0, v = 0, w = 0;
};

// rows x columns vertices; each cell is two triangles.
struct GridMesh {
  Material material;
  int rows, columns;
  bool two_sided = false;
  // Cells whose corners all have `w` above this are drawn whole, without asking what to keep.
  float whole_above = 1e9f;
  std::vector<Vertex> vertices;

  GridMesh(Material kind, int row_count, int column_count, bool both_sides = false);
  Vertex& at(int row, int column) { return vertices[row * columns + column]; }
  const Vertex& at(int row, int column) const { return vertices[row * columns + column]; }
  // Normals from neighbouring vertices; `flip` where rows and columns run the other way round.
  void compute_normals(bool flip = false);
};

struct Projected {
  float x, y, z;  // pixels (origin at the centre of the top-left pixel) and nearness
};

// A perspective camera on the z axis; nearness is the camera's z coordinate.
class Camera {
 public:
  // `anchor`, a point of the head, is seen at pixel (x, y) with `scale` pixels a head unit.
  Camera(const Rotation& rotation, Vec3 anchor, float x, float y, float scale, float distance);
  Projected project(Vec3 head_point) const {
    const Vec3 p = rotation_(head_point - anchor_);
    const float k = scale_ * distance_ / (distance_ - p.z);
    return {x_ + k * p.x, y_ - k * p.y, p.z};
  }
  // From the point towards the camera, in the head's frame, not normalised.
  Vec3 towards(Vec3 head_point) const { return position_ - head_point; }
  const Rotation& rotation() const { return rotation_; }
  float scale() const { return scale_; }

 private:
  Rotation rotation_;
  Vec3 anchor_, position_;
  float x_, y_, scale_, distance_;
};

// The nearest triangle at each of 2 x 2 samples a pixel.
class SampleBuffer {
 public:
  static constexpr uint32_t kNone = 0xffffffffu;

  explicit SampleBuffer(int size) : size_(size), samples_(4 * size * size) {}
  int size() const { return size_; }         // pixels
  int samples() const { return 2 * size_; }  // samples a row
  float nearness(int index) const { return samples_[index].nearness; }
  // Mesh << 24 | 2 * (the cell's first vertex) + (0 or 1).
  uint32_t triangle(int index) const { return samples_[index].triangle; }
  void set(int index, float nearness, uint32_t triangle) { samples_[index] = {nearness, triangle}; }

 private:
  struct Sample {
    float nearness = -1e9f;
    uint32_t triangle = kNone;
  };
  int size_;
  std::vector<Sample> samples_;
};

// A mesh together with where its vertices fall in the image.
struct Drawn {
  const GridMesh* mesh;
  std::vector<Projected> projected;  // in samples
};

// Draws meshes into a buffer. Lenses are not drawn but counted: they do not hide.
class Rasterizer {
 public:
  Rasterizer(const Camera& camera, int size) : camera_(camera), buffer_(size), lens_(size * size) {}

  void draw(const GridMesh& mesh);
  // Draws only samples where keep(u, v, w) is 1; where it is 2, a lens covers the sample.
  template <class Keep>
  void draw(const GridMesh& mesh, Keep keep);

  const SampleBuffer& buffer() const { return buffer_; }
  const Camera& camera() const { return camera_; }
  const Drawn& drawn(uint32_t triangle) const { return drawn_[triangle >> 24]; }
  // Samples of the pixel (0 ... 4) that are seen through a lens.
  int lens(int pixel) const { return lens_[pixel]; }
  // The surface at pixel coordinates (x, y), extended in the plane of the triangle.
  Vertex interpolate(uint32_t triangle, float x, float y) const;

 private:
  Drawn project(const GridMesh& mesh) const;

  Camera camera_;
  SampleBuffer buffer_;
  std::vector<uint8_t> lens_;
  std::vector<Drawn> drawn_;
};

// Depth of the head as the key light sees it; asked for how much of the light arrives.
class ShadowMap {
 public:
  explicit ShadowMap(Vec3 towards_light);
  // Draws every `step`-th row and column: shadows are too soft to show more.
  void draw(const GridMesh& mesh, int step);
  // 0 in full shadow ... 1 lit, soft over about two texels.
  float lit(Vec3 position, Vec3 normal) const;

 private:
  static constexpr int kSide = 96;
  static constexpr float kRadius = 1.45f;
  Projected project(Vec3 p) const;
  Vec3 right_, up_, light_;
  std::vector<float> nearness_;
};

namespace raster {

// Bounds on x in a row of a triangle, from its three sides: linear in the row, at most two each
// way.
class Span {
 public:
  // A side inside of which across * dx + down * dy + start is not negative.
  void add(float across, float down, float start) {
    // A little slack keeps neighbouring triangles free of cracks.
    constexpr float kSlack = 1e-3f;
    if (across == 0) return;  // a horizontal side: the rows are bounded already
    const float inverse = -1 / across;
    Bound& bound = across > 0 ? low_[lows_++ & 1] : high_[highs_++ & 1];
    bound = {down * inverse, start * inverse + (across > 0 ? -kSlack : kSlack)};
  }
  float low(float dy, float least) const {
    return std::max(least, std::max(low_[0].at(dy), low_[1].at(dy)));
  }
  float high(float dy, float most) const {
    return std::min(most, std::min(high_[0].at(dy), high_[1].at(dy)));
  }

 private:
  struct Bound {
    float slope, offset;
    float at(float dy) const { return slope * dy + offset; }
  };
  Bound low_[2] = {{0, -1e9f}, {0, -1e9f}}, high_[2] = {{0, 1e9f}, {0, 1e9f}};
  int lows_ = 0, highs_ = 0;
};

// Calls visit(sample index, weights b and c, nearness) for the samples inside a triangle of `side`
// x `side` samples, whose corners are in sample coordinates; back faces are left out unless
// `two_sided`.
template <class Visit>
void triangle(const Projected& a, const Projected& b, const Projected& c, int side, bool two_sided,
              Visit visit) {
  const float bx = b.x - a.x, by = b.y - a.y, cx = c.x - a.x, cy = c.y - a.y;
  const float area = bx * cy - by * cx;
  // Image coordinates point down: a triangle that turns left in the head's frame has negative area.
  if (area == 0 || (area > 0 && !two_sided)) return;
  const float left = std::max(0.0f, std::min({a.x, b.x, c.x}));
  const float right = std::min(side - 1.0f, std::max({a.x, b.x, c.x}));
  const int y0 = static_cast<int>(std::ceil(std::max(0.0f, std::min({a.y, b.y, c.y}))));
  const int y1 = static_cast<int>(std::floor(std::min(side - 1.0f, std::max({a.y, b.y, c.y}))));
  if (left > right || y0 > y1) return;
  const float inverse = 1 / area;
  const float b_across = cy * inverse, b_down = -cx * inverse;
  const float c_across = -by * inverse, c_down = bx * inverse;
  Span span;
  span.add(b_across, b_down, 0);
  span.add(c_across, c_down, 0);
  span.add(-b_across - c_across, -b_down - c_down, 1);
  const float bz = b.z - a.z, cz = c.z - a.z;
  const float z_across = bz * b_across + cz * c_across, z_down = bz * b_down + cz * c_down;
  for (int y = y0; y <= y1; ++y) {
    const float dy = static_cast<float>(y) - a.y;
    const int x0 = static_cast<int>(std::ceil(span.low(dy, left - a.x) + a.x));
    const int x1 = static_cast<int>(std::floor(span.high(dy, right - a.x) + a.x));
    for (int x = x0; x <= x1; ++x) {
      const float dx = static_cast<float>(x) - a.x;
      visit(y * side + x, b_across * dx + b_down * dy, c_across * dx + c_down * dy,
            a.z + z_across * dx + z_down * dy);
    }
  }
}

}  // namespace raster

template <class Keep>
void Rasterizer::draw(const GridMesh& mesh, Keep keep) {
  Drawn drawn = project(mesh);
  const int side = buffer_.samples();
  const auto face = [&](int i, int j, int k, uint32_t id) {
    const Vertex *a = &mesh.vertices[i], *b = &mesh.vertices[j], *c = &mesh.vertices[k];
    const auto visit = [&](int index, float wb, float wc, float z) {
      if (z <= buffer_.nearness(index)) return;
      const float wa = 1 - wb - wc;
      const int kept = keep(wa * a->u + wb * b->u + wc * c->u, wa * a->v + wb * b->v + wc * c->v,
                            wa * a->w + wb * b->w + wc * c->w);
      if (kept == 1) buffer_.set(index, z, id);
      if (kept == 2) ++lens_[(index / side / 2) * buffer_.size() + index % side / 2];
    };
    const auto& p = drawn.projected;
    if (std::min({a->w, b->w, c->w}) > mesh.whole_above) {
      raster::triangle(p[i], p[j], p[k], side, mesh.two_sided,
                       [&](int index, float, float, float z) {
                         if (z > buffer_.nearness(index)) buffer_.set(index, z, id);
                       });
    } else {
      raster::triangle(p[i], p[j], p[k], side, mesh.two_sided, visit);
    }
  };
  const auto mesh_id = static_cast<uint32_t>(drawn_.size()) << 24;
  for (int row = 0; row + 1 < mesh.rows; ++row) {
    for (int column = 0; column + 1 < mesh.columns; ++column) {
      const int i = row * mesh.columns + column, below = i + mesh.columns;
      const uint32_t id = mesh_id | 2 * static_cast<uint32_t>(i);
      face(i, below, i + 1, id);
      face(i + 1, below, below + 1, id + 1);
    }
  }
  drawn_.push_back(std::move(drawn));
}

}  // namespace facetrain::synthetic
