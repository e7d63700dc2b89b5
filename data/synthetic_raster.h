// Grid meshes, a camera, a z-buffer of four samples a pixel and a soft shadow map.
#pragma once

#include <immintrin.h>

#include <bit>
#include <cstdint>
#include <cstring>
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

// `u`, `v`, `w` mean what the material says; positions and normals are in the head's frame. Light
// is what Shader::light_vertices makes of it: where it is soft, the vertices are dense enough to
// carry it. Sixteen floats, mixed as a whole.
struct Vertex {
  Vec3 position;
  float u = 0;
  Vec3 normal;
  float v = 0;
  Vec3 light;  // that skin or hair receives, from all around
  float w = 0;
  Vec3 shine;     // that it mirrors, if glossy
  float lit = 0;  // share of the key light that no shadow takes
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

// Eight numbers, one register where the machine has such.
using Lanes = float __attribute__((vector_size(32)));
using LaneMask = int32_t __attribute__((vector_size(32)));
inline constexpr int kLanes = 8;

// The nearest triangle at each of 2 x 2 samples a pixel. Rows are padded: eight samples from any
// place may be read and written.
class SampleBuffer {
 public:
  static constexpr uint32_t kNone = 0xffffffffu;

  explicit SampleBuffer(int size)
      : size_(size),
        nearness_(static_cast<size_t>(samples()) * stride(), -1e9f),
        triangle_(nearness_.size(), kNone) {}
  int size() const { return size_; }                 // pixels
  int samples() const { return 2 * size_; }          // samples a row
  int stride() const { return 2 * size_ + kLanes; }  // from row to row
  float nearness(int index) const { return nearness_[index]; }
  // Mesh << 24 | 2 * (the cell's first vertex) + (0 or 1).
  uint32_t triangle(int index) const { return triangle_[index]; }
  void set(int index, float nearness, uint32_t triangle) {
    nearness_[index] = nearness, triangle_[index] = triangle;
  }

 private:
  friend class Rasterizer;
  int size_;
  std::vector<float> nearness_;
  std::vector<uint32_t> triangle_;
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
  // Three vertices of a mesh and what the buffer calls them.
  struct Face {
    int a, b, c;
    uint32_t id;
  };
  const Drawn& start(const GridMesh& mesh);  // projects it as the last of drawn_
  void draw_whole(const Drawn& drawn, const Face& face);
  template <class Visit>
  void each_face(const Drawn& drawn, Visit visit) const {
    const auto mesh_id = static_cast<uint32_t>(&drawn - drawn_.data()) << 24;
    const int rows = drawn.mesh->rows, columns = drawn.mesh->columns;
    for (int row = 0; row + 1 < rows; ++row) {
      for (int i = row * columns; i + 1 < (row + 1) * columns; ++i) {
        const uint32_t id = mesh_id | 2 * static_cast<uint32_t>(i);
        visit(Face{i, i + columns, i + 1, id});
        visit(Face{i + 1, i + columns, i + columns + 1, id + 1});
      }
    }
  }

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
  static constexpr int kSide = 96, kStride = kSide + kLanes;
  static constexpr float kRadius = 1.45f;
  Projected project(Vec3 p) const;
  Vec3 right_, up_, light_;
  std::vector<float> nearness_;
};

namespace raster {

inline Lanes load(const void* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof(lanes));
  return lanes;
}

// Where `mask` is set, *to = value.
template <class Vector, class Scalar>
void store(Scalar* to, LaneMask mask, Vector value) {
  Vector old;
  std::memcpy(&old, to, sizeof(old));
  old = mask ? value : old;
  std::memcpy(to, &old, sizeof(old));
}

// Bit i: whether lane i is set.
inline uint32_t bits(LaneMask mask) {
  return static_cast<uint32_t>(_mm256_movemask_ps(std::bit_cast<__m256>(mask)));
}

// Calls visit(x, y, weights b and c, nearness, inside) for every eight samples from (x, y) on that
// may lie inside a triangle, whose corners are in the coordinates of `side` x `side` samples; lanes
// may lie beyond a row's end. Back faces are left out unless `two_sided`.
template <class Visit>
inline void triangle(const Projected& a, const Projected& b, const Projected& c, int side,
                     bool two_sided, Visit visit) {
  const float bx = b.x - a.x, by = b.y - a.y, cx = c.x - a.x, cy = c.y - a.y;
  const float area = bx * cy - by * cx;
  // Image coordinates point down: a triangle that turns left in the head's frame has negative area.
  if (area == 0 || (area > 0 && !two_sided)) return;
  const float last = static_cast<float>(side - 1);
  const int x0 =
      static_cast<int>(std::ceil(std::max(0.0f, a.x + std::min(0.0f, std::min(bx, cx)))));
  const int y0 =
      static_cast<int>(std::ceil(std::max(0.0f, a.y + std::min(0.0f, std::min(by, cy)))));
  const int x1 = static_cast<int>(std::min(last, a.x + std::max(0.0f, std::max(bx, cx))));
  const int y1 = static_cast<int>(std::min(last, a.y + std::max(0.0f, std::max(by, cy))));
  const float inverse = 1 / area;
  const float b_across = cy * inverse, b_down = -cx * inverse;
  const float c_across = -by * inverse, c_down = bx * inverse;
  const float bz = b.z - a.z, cz = c.z - a.z;
  constexpr Lanes kSteps = {0, 1, 2, 3, 4, 5, 6, 7};
  // A little slack keeps neighbouring triangles free of cracks.
  constexpr float kSlack = 1e-3f;
  for (int x = x0; x <= x1; x += kLanes) {
    const Lanes dx = kSteps + (static_cast<float>(x) - a.x);
    const Lanes b_row = b_across * dx, c_row = c_across * dx;
    for (int y = y0; y <= y1; ++y) {
      const float dy = static_cast<float>(y) - a.y;
      const Lanes wb = b_row + b_down * dy, wc = c_row + c_down * dy;
      const LaneMask inside = (wb >= -kSlack) & (wc >= -kSlack) & (wb + wc <= 1 + kSlack);
      visit(x, y, wb, wc, a.z + bz * wb + cz * wc, inside);
    }
  }
}

}  // namespace raster

template <class Keep>
void Rasterizer::draw(const GridMesh& mesh, Keep keep) {
  const Drawn& drawn = start(mesh);
  const int side = buffer_.samples(), stride = buffer_.stride();
  each_face(drawn, [&](const Face& face) {
    const Vertex &a = mesh.vertices[face.a], &b = mesh.vertices[face.b], &c = mesh.vertices[face.c];
    if (std::min(a.w, std::min(b.w, c.w)) > mesh.whole_above) return draw_whole(drawn, face);
    const auto& p = drawn.projected;
    raster::triangle(p[face.a], p[face.b], p[face.c], side, mesh.two_sided,
                     [&](int x, int y, Lanes wb, Lanes wc, Lanes z, LaneMask inside) {
                       const int index = y * stride + x;
                       const LaneMask seen = inside & (z > raster::load(&buffer_.nearness_[index]));
                       for (uint32_t rest = raster::bits(seen); rest != 0; rest &= rest - 1) {
                         const int lane = std::countr_zero(rest);
                         if (x + lane >= side) break;
                         const float sb = wb[lane], sc = wc[lane], sa = 1 - sb - sc;
                         const int kept =
                             keep(sa * a.u + sb * b.u + sc * c.u, sa * a.v + sb * b.v + sc * c.v,
                                  sa * a.w + sb * b.w + sc * c.w);
                         if (kept == 1) buffer_.set(index + lane, z[lane], face.id);
                         if (kept == 2) ++lens_[(y / 2) * buffer_.size() + (x + lane) / 2];
                       }
                     });
  });
}

}  // namespace facetrain::synthetic
