#include "data/synthetic_raster.h"

#include <cstring>

namespace facetrain::synthetic {

GridMesh::GridMesh(Material kind, int row_count, int column_count, bool both_sides)
    : material(kind),
      rows(row_count),
      columns(column_count),
      two_sided(both_sides),
      vertices(static_cast<size_t>(row_count) * column_count) {}

void GridMesh::compute_normals(bool flip) {
  for (int row = 0; row < rows; ++row) {
    const int above = std::max(row - 1, 0), below = std::min(row + 1, rows - 1);
    for (int column = 0; column < columns; ++column) {
      const int left = std::max(column - 1, 0), right = std::min(column + 1, columns - 1);
      const Vec3 across = at(row, right).position - at(row, left).position;
      const Vec3 down = at(below, column).position - at(above, column).position;
      at(row, column).normal = unit(cross(down, across) * (flip ? -1.0f : 1.0f));
    }
  }
}

// The vertex as sixteen numbers, mixed eight at a time.
Vertex mixed(const Vertex& a, float wa, const Vertex& b, float wb, const Vertex& c, float wc) {
  static_assert(sizeof(Vertex) == 2 * sizeof(Lanes));
  const auto half = [&](int i) {
    const auto lanes = [i](const Vertex& vertex) {
      return raster::load(reinterpret_cast<const char*>(&vertex) + i * sizeof(Lanes));
    };
    return lanes(a) * wa + lanes(b) * wb + lanes(c) * wc;
  };
  const Lanes low = half(0), high = half(1);
  Vertex vertex;
  std::memcpy(reinterpret_cast<char*>(&vertex), &low, sizeof(low));
  std::memcpy(reinterpret_cast<char*>(&vertex) + sizeof(low), &high, sizeof(high));
  return vertex;
}

Camera::Camera(const Rotation& rotation, Vec3 anchor, float x, float y, float scale, float distance)
    : rotation_(rotation),
      anchor_(anchor),
      position_(anchor + rotation.inverse(Vec3{0, 0, distance})),
      x_(x),
      y_(y),
      scale_(scale),
      distance_(distance) {}

const Drawn& Rasterizer::start(const GridMesh& mesh) {
  Drawn& drawn = drawn_.emplace_back(Drawn{&mesh, {}});
  drawn.projected.reserve(mesh.vertices.size());
  for (const auto& vertex : mesh.vertices) {
    const Projected p = camera_.project(vertex.position);
    drawn.projected.push_back({2 * p.x + 0.5f, 2 * p.y + 0.5f, p.z});
  }
  return drawn;
}

void Rasterizer::draw_whole(const Drawn& drawn, const Face& face) {
  const auto& p = drawn.projected;
  const auto id = LaneMask{} + static_cast<int32_t>(face.id);
  raster::triangle(p[face.a], p[face.b], p[face.c], buffer_.samples(), drawn.mesh->two_sided,
                   [&](int x, int y, Lanes, Lanes, Lanes z, LaneMask inside) {
                     const int index = y * buffer_.stride() + x;
                     float* nearness = &buffer_.nearness_[index];
                     const LaneMask seen = inside & (z > raster::load(nearness));
                     raster::store(nearness, seen, z);
                     raster::store(&buffer_.triangle_[index], seen, id);
                   });
}

void Rasterizer::draw(const GridMesh& mesh) {
  const Drawn& drawn = start(mesh);
  each_face(drawn, [&](const Face& face) { draw_whole(drawn, face); });
}

Vertex Rasterizer::interpolate(uint32_t triangle, float x, float y) const {
  const Drawn& drawn = drawn_[triangle >> 24];
  const uint32_t number = triangle & 0xffffff;
  const int cell = static_cast<int>(number / 2), below = cell + drawn.mesh->columns;
  const int first = number % 2 == 0 ? cell : cell + 1;
  const int third = number % 2 == 0 ? cell + 1 : below + 1;
  const Projected &a = drawn.projected[first], &b = drawn.projected[below];
  const Projected& c = drawn.projected[third];
  const float area = (b.x - a.x) * (c.y - a.y) - (b.y - a.y) * (c.x - a.x);
  const float inverse = 1 / area, dx = 2 * x + 0.5f - a.x, dy = 2 * y + 0.5f - a.y;
  float wb = ((c.y - a.y) * dx - (c.x - a.x) * dy) * inverse;
  float wc = ((b.x - a.x) * dy - (b.y - a.y) * dx) * inverse;
  // A sample may lie a little outside of its pixel's first triangle, or far outside of a sliver:
  // then it is pulled towards the middle.
  constexpr float kMiddle = 1.0f / 3, kLeast = -0.4f;
  const float least = std::min(1 - wb - wc, std::min(wb, wc));
  if (least < kLeast) {
    const float pull = (kMiddle - kLeast) / (kMiddle - least);
    wb = mix(kMiddle, wb, pull), wc = mix(kMiddle, wc, pull);
  }
  const Vertex* vertices = drawn.mesh->vertices.data();
  return mixed(vertices[first], 1 - wb - wc, vertices[below], wb, vertices[third], wc);
}

ShadowMap::ShadowMap(Vec3 towards_light)
    : light_(unit(towards_light)), nearness_(kSide * kStride, -1e9f) {
  right_ = unit(cross(Vec3{0, 1, 0.01f}, light_));
  up_ = cross(light_, right_);
}

Projected ShadowMap::project(Vec3 p) const {
  constexpr float kTexels = kSide / (2 * kRadius);
  p.y += 0.05f;
  return {(dot(p, right_) + kRadius) * kTexels - 0.5f, (kRadius - dot(p, up_)) * kTexels - 0.5f,
          dot(p, light_)};
}

void ShadowMap::draw(const GridMesh& mesh, int step) {
  const int rows = (mesh.rows - 2) / step + 2, columns = (mesh.columns - 2) / step + 2;
  std::vector<Projected> projected;
  projected.reserve(static_cast<size_t>(rows) * columns);
  for (int row = 0; row < rows; ++row) {
    for (int column = 0; column < columns; ++column) {
      const Vertex& vertex =
          mesh.at(std::min(row * step, mesh.rows - 1), std::min(column * step, mesh.columns - 1));
      projected.push_back(project(vertex.position));
    }
  }
  const auto store = [&](int x, int y, Lanes, Lanes, Lanes z, LaneMask inside) {
    float* nearness = &nearness_[y * kStride + x];
    raster::store(nearness, inside & (z > raster::load(nearness)), z);
  };
  for (int row = 0; row + 1 < rows; ++row) {
    for (int column = 0; column + 1 < columns; ++column) {
      const Projected* top = &projected[row * columns + column];
      const Projected* bottom = top + columns;
      raster::triangle(top[0], bottom[0], top[1], kSide, mesh.two_sided, store);
      raster::triangle(top[1], bottom[0], bottom[1], kSide, mesh.two_sided, store);
    }
  }
}

float ShadowMap::lit(Vec3 position, Vec3 normal) const {
  const Projected p = project(position + normal * 0.045f);
  const float fx = std::floor(p.x), fy = std::floor(p.y), tx = p.x - fx, ty = p.y - fy;
  const int x = static_cast<int>(fx) - 1, y = static_cast<int>(fy) - 1;
  if (x < 0 || y < 0 || x + 3 >= kSide || y + 3 >= kSide) return 1;
  // A 3 x 3 box between texels, that is 4 x 4 texels with the outer ones in part.
  const float wx[4] = {1 - tx, 1, 1, tx}, wy[4] = {1 - ty, 1, 1, ty};
  const float near = p.z + 0.02f;
  float sum = 0;
  for (int j = 0; j < 4; ++j) {
    const float* row = &nearness_[(y + j) * kStride + x];
    float line = 0;
    for (int i = 0; i < 4; ++i) line += row[i] <= near ? wx[i] : 0.0f;
    sum += wy[j] * line;
  }
  return sum * (1.0f / 9);
}

}  // namespace facetrain::synthetic
