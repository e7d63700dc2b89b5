#include "data/synthetic_body.h"

namespace facetrain::synthetic {
namespace {

constexpr int kFrontColumns = 17, kBackColumns = 5, kHalf = kFrontColumns + kBackColumns;
constexpr int kSkullRows = 5, kFaceRows = 37;

// Columns are close together in the middle of the face, rows below the forehead.
float head_angle(int column) {
  const int side = std::abs(column);
  float angle;
  if (side <= kFrontColumns) {
    const float t = static_cast<float>(side) / kFrontColumns;
    angle = 0.5f * kPi * t * (0.6f + 0.4f * t);
  } else {
    angle = 0.5f * kPi * (1 + static_cast<float>(side - kFrontColumns) / kBackColumns);
  }
  return column < 0 ? -angle : angle;
}

float head_row(int row, float chin) {
  constexpr float kBrowLine = 0.52f;
  if (row < kSkullRows) return mix(1.068f, kBrowLine, static_cast<float>(row) / kSkullRows);
  return mix(kBrowLine, chin, static_cast<float>(row - kSkullRows) / kFaceRows);
}

// How much the neighbourhood rises above a vertex, against its size.
void compute_concavity(GridMesh& mesh) {
  constexpr int kReach = 2;
  for (int row = 0; row < mesh.rows; ++row) {
    const int above = std::max(row - kReach, 0), below = std::min(row + kReach, mesh.rows - 1);
    for (int column = 0; column < mesh.columns; ++column) {
      const int left = std::max(column - kReach, 0);
      const int right = std::min(column + kReach, mesh.columns - 1);
      Vertex& vertex = mesh.at(row, column);
      const Vec3 a = mesh.at(above, column).position, b = mesh.at(below, column).position;
      const Vec3 c = mesh.at(row, left).position, d = mesh.at(row, right).position;
      const Vec3 rise = (a + b + c + d) * 0.25f - vertex.position;
      const Vec3 across = d - c, down = b - a;
      const float reach = 0.25f * std::sqrt(dot(across, across) + dot(down, down)) + 1e-4f;
      vertex.w = dot(rise, vertex.normal) / reach;
    }
  }
}

}  // namespace

GridMesh head_mesh(const HeadShape& head) {
  GridMesh mesh(Material::kFace, kSkullRows + kFaceRows + 1, 2 * kHalf + 1);
  std::array<float, kHalf + 1> sines, cosines;
  for (int column = 0; column <= kHalf; ++column) {
    sines[column] = std::sin(head_angle(column)), cosines[column] = std::cos(head_angle(column));
  }
  for (int row = 0; row < mesh.rows; ++row) {
    const float y = head_row(row, head.chin());
    const HeadShape::Section section = head.section(y);
    for (int column = 0; column <= kHalf; ++column) {
      const float angle = head_angle(column), sine = sines[column], cosine = cosines[column];
      Vec3 p = HeadShape::on_section(section, y, sine, cosine, 0);
      if (cosine > 0.02f && y < 0.75f) p.z += head.relief(p.x, y) * smooth(0.02f, 0.30f, cosine);
      Vertex& right = mesh.at(row, kHalf + column);
      right.position = p, right.u = angle, right.v = y;
      Vertex& left = mesh.at(row, kHalf - column);
      left = right;
      left.position.x = -p.x, left.u = -angle;
    }
  }
  mesh.compute_normals();
  compute_concavity(mesh);
  return mesh;
}

GridMesh neck_mesh(const HeadShape& head) {
  GridMesh mesh(Material::kNeck, 9, 25);
  const float width = head.face().neck_width;
  for (int row = 0; row < mesh.rows; ++row) {
    const float t = static_cast<float>(row) / (mesh.rows - 1), y = mix(-0.30f, -1.55f, t);
    const float flare = 1 + 0.9f * square(square(t)), centre = mix(-0.22f, -0.34f, t);
    for (int column = 0; column < mesh.columns; ++column) {
      const float angle = 2 * kPi * (static_cast<float>(column) / (mesh.columns - 1) - 0.5f);
      // Two cords run down the front of the neck.
      const float cords = 0.012f * bump((std::abs(angle) - 0.7f) / 0.3f, 0);
      Vertex& vertex = mesh.at(row, column);
      vertex.position = {(width * flare + cords) * std::sin(angle), y,
                         centre + (0.43f * flare + cords) * std::cos(angle)};
      vertex.u = angle, vertex.v = y;
    }
  }
  mesh.compute_normals();
  return mesh;
}

GridMesh ear_mesh(const HeadShape& head, float side) {
  GridMesh mesh(Material::kEar, 6, 19, true);
  const FaceIdentity& face = head.face();
  const float y = face.eye_y - 0.16f;
  const HeadShape::Section section = head.section(y);
  const Vec3 middle{section.half_width - 0.015f, y, section.centre - 0.10f};
  for (int row = 0; row < mesh.rows; ++row) {
    const float radius = static_cast<float>(row) / (mesh.rows - 1);
    for (int column = 0; column < mesh.columns; ++column) {
      const float angle = 2 * kPi * static_cast<float>(column) / (mesh.columns - 1);
      const float up = radius * std::cos(angle), back = radius * std::sin(angle);
      // The lobe is narrower than the top; the rear rim stands off the head.
      const float width = 0.62f * face.ear_size * (1 + 0.22f * up);
      const float rim = smooth(0.55f, 0.85f, radius) - 0.5f * smooth(0.9f, 1.0f, radius);
      const float out = (0.35f + face.ear_out) * 0.5f * (back + 0.6f * radius) * face.ear_size +
                        0.035f * rim * smooth(-0.9f, -0.2f, back);
      Vertex& vertex = mesh.at(row, column);
      vertex.position = {side * (middle.x + std::max(out, 0.0f)), middle.y + up * face.ear_size,
                         middle.z - back * width + 0.05f * up};
      vertex.u = up, vertex.v = back, vertex.w = radius;
    }
  }
  mesh.compute_normals(side < 0);
  return mesh;
}

GridMesh clothes_mesh(const HeadShape& head) {
  GridMesh mesh(Material::kClothes, 7, 33);
  const float neck = head.face().neck_width;
  for (int row = 0; row < mesh.rows; ++row) {
    const float t = static_cast<float>(row) / (mesh.rows - 1);
    const float y = -1.20f - 0.10f * t - 0.9f * t * t;
    for (int column = 0; column < mesh.columns; ++column) {
      const float angle = 2 * kPi * (static_cast<float>(column) / (mesh.columns - 1) - 0.5f);
      const float wide = mix(neck + 0.13f, 1.75f, std::sqrt(t) * (1.4f - 0.4f * t));
      const float deep = mix(0.53f, 0.75f, t), dip = 0.12f * std::cos(angle) * (1 - t);
      Vertex& vertex = mesh.at(row, column);
      vertex.position = {wide * std::sin(angle), y - dip, -0.32f + deep * std::cos(angle)};
      vertex.u = angle, vertex.v = t;
    }
  }
  mesh.compute_normals();
  return mesh;
}

}  // namespace facetrain::synthetic
