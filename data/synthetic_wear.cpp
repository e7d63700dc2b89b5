// Hair, hats, glasses and masks: shells around the head, cut to shape sample by sample.
#include "data/synthetic_body.h"

namespace facetrain::synthetic {
namespace {

// Strands end within this distance of the hair's edge.
constexpr float kRagged = 0.20f;

// The outline that hanging hair keeps below the widest part of the skull.
HeadShape::Section hair_section(const HeadShape& head, float y) {
  HeadShape::Section s = head.section(std::max(y, 0.05f));
  if (y >= 0.05f) return s;
  const float down = clamp01((0.05f - y) / 1.2f);
  s.half_width *= 1 - 0.06f * down;
  s.centre -= 0.10f * down;
  s.front = s.centre + (s.front - s.centre) * (1 - 0.45f * down);
  s.back = s.centre + (s.back - s.centre) * (1 - 0.30f * down);
  return s;
}

// A strip of cells from one point to another, `width` wide in y.
GridMesh strip(Material material, Vec3 from, Vec3 to, float bulge, float width, float side) {
  GridMesh mesh(material, 2, 9, true);
  for (int column = 0; column < mesh.columns; ++column) {
    const float t = static_cast<float>(column) / (mesh.columns - 1);
    Vec3 p = mix(from, to, t);
    p.x += side * bulge * 4 * t * (1 - t);
    for (int row = 0; row < 2; ++row) {
      mesh.at(row, column).position = p + Vec3{0, (row == 0 ? 0.5f : -0.5f) * width, 0};
    }
  }
  for (auto& vertex : mesh.vertices) vertex.normal = unit(Vec3{side, 0.2f, 0.4f});
  return mesh;
}

}  // namespace

HairShape::HairShape(const HeadShape& head, const HairStyle& style, const Wear& wear)
    : style_(style),
      covered_(wear.hat != Hat::kNone),
      cover_line_(wear.hat_line),
      shift_(static_cast<float>(style.key % 97)) {
  const FaceIdentity& face = head.face();
  const float line = face.hairline + style.recede, length = style.length;
  const float corner = line - 0.03f + 0.4f * style.recede;
  const bool hangs = length < -0.3f;
  const float side = hangs ? length : face.eye_y - 0.02f;
  const float burn = hangs ? length : length - 0.08f;
  const float nape = hangs ? length : -0.55f;
  root_ = {{0.0f, 0.40f, 0.72f, 1.00f, 1.32f, 1.80f, kPi},
           {line, line + 0.015f, corner, 0.36f, length < 0 ? -0.12f : 0.0f, 0.05f, -0.55f}};
  end_ = root_;
  end_.value[3] = hangs ? mix(0.34f, length, 0.35f) : 0.34f;
  end_.value[4] = burn, end_.value[5] = side, end_.value[6] = nape;
  if (style.fringe && !covered_) {
    const float low = face.eye_y + face.brow_y + 0.07f;
    end_.value[0] = low, end_.value[1] = low - 0.01f, end_.value[2] = low - 0.07f;
    end_.value[3] = std::min(end_.value[3], 0.05f);
  }
}

float HairShape::end(float theta) const {
  const float a = std::abs(theta);
  float y = end_(a);
  if (style_.fringe) y += 0.13f * style_.sweep * theta * smooth(1.2f, 0.6f, a);
  return y + 0.07f * (noise(2.2f * theta + shift_, shift_) - 0.5f) *
                 (a < 1.1f && !style_.fringe ? 0.6f : 1.0f);
}

float HairShape::thickness(float theta, float y, float to_end) const {
  const float a = std::abs(theta);
  const float clump = 1 + 0.55f * (noise(3.1f * theta + shift_, 1.3f * y) - 0.5f) +
                      (0.25f + 0.5f * style_.wave) *
                          (noise(8 * theta, 4 * y * (0.4f + style_.wave) + shift_) - 0.5f);
  float thick = style_.volume * clump;
  // Hair that is combed back rises from the skin at its line; a fringe and hanging hair do not.
  const bool combed = a < 0.85f && !style_.fringe;
  const float rise = smooth(0.0f, combed ? 0.22f : 0.10f, to_end);
  thick *= combed ? mix(0.12f, 1, rise) : mix(0.5f, 1, rise);
  // Short hair lies close at the temples, where its edge runs along the strands.
  if (style_.length > -0.3f) thick *= 1 - 0.6f * bump((a - 1.05f) / 0.6f, 0);
  if (covered_) thick = mix(thick, 0.025f, smooth(cover_line_ - 0.12f, cover_line_, y));
  return std::max(thick, 0.018f);
}

GridMesh HairShape::mesh(const HeadShape& head) const {
  GridMesh mesh(Material::kHair, 19, 53, true);
  std::vector<float> ends(mesh.columns), sines(mesh.columns), cosines(mesh.columns);
  const auto angle_of = [&](int column) {
    return 2 * kPi * (static_cast<float>(column) / (mesh.columns - 1) - 0.5f);
  };
  for (int column = 0; column < mesh.columns; ++column) {
    const float angle = angle_of(column);
    ends[column] = end(angle), sines[column] = std::sin(angle), cosines[column] = std::cos(angle);
  }
  for (int row = 0; row < mesh.rows; ++row) {
    const float t = static_cast<float>(row) / (mesh.rows - 1);
    for (int column = 0; column < mesh.columns; ++column) {
      const float angle = angle_of(column);
      const float y = mix(1.066f, ends[column], t), to_end = y - ends[column];
      const float thick = thickness(angle, y, to_end);
      Vertex& vertex = mesh.at(row, column);
      Vec3 p =
          HeadShape::on_section(hair_section(head, y), y, sines[column], cosines[column], thick);
      p.y += 0.8f * thick * smooth(0.6f, 1.06f, y);
      if (std::abs(angle) < 1.2f && y < 0.75f)
        p.z += head.relief(std::abs(p.x), y) * cosines[column];
      vertex.position = p;
      vertex.u = angle, vertex.v = y, vertex.w = to_end;
    }
  }
  mesh.whole_above = kRagged;
  mesh.compute_normals();
  return mesh;
}

int HairShape::keep(float u, float v, float w) const {
  if (w > kRagged) return 1;
  // At the temples the edge runs along the strands, so their ends are not seen there.
  const float ragged = 1 - 0.8f * bump((std::abs(u) - 1.05f) / 0.5f, 0);
  const float across = u * (34 - 12 * style_.wave) + 5 * style_.sweep * v;
  const float strand =
      0.55f * noise(across, 2 * v + shift_) + 0.45f * noise(0.31f * across + 9, 1.1f * v);
  return w > ragged * (0.85f * square(strand) + 0.15f * strand) * kRagged ? 1 : 0;
}

std::vector<GridMesh> hat_meshes(const HeadShape& head, const Wear& wear) {
  std::vector<GridMesh> meshes;
  if (wear.hat == Hat::kNone) return meshes;
  const bool beanie = wear.hat == Hat::kBeanie, cap = wear.hat == Hat::kCap;
  const auto line = [&](float cosine) {
    return wear.hat_line - (beanie ? 0.10f : 0.16f) * (0.5f - 0.5f * cosine);
  };
  GridMesh& dome = meshes.emplace_back(Material::kHat, 15, 49);
  for (int row = 0; row < dome.rows; ++row) {
    const float t = static_cast<float>(row) / (dome.rows - 1);
    for (int column = 0; column < dome.columns; ++column) {
      const float angle = 2 * kPi * (static_cast<float>(column) / (dome.columns - 1) - 0.5f);
      const float y = mix(1.068f, line(std::cos(angle)), t * (0.5f + 0.5f * t));
      float thick = beanie ? 0.075f + (t > 0.72f ? 0.035f : 0.0f) : 0.065f;
      if (wear.hat == Hat::kBrim) thick += 0.03f * t;
      Vec3 p = HeadShape::on_section(head.section(y), y, std::sin(angle), std::cos(angle), thick);
      p.y += (beanie ? 0.16f : cap ? 0.05f : 0.10f) * smooth(0.55f, 1.05f, y);
      Vertex& vertex = dome.at(row, column);
      vertex.position = p, vertex.u = angle, vertex.v = t;
    }
  }
  dome.compute_normals();
  if (beanie) return meshes;
  // A cap's visor covers the front, a brim goes all around.
  const float reach = cap ? 1.02f : kPi, length = cap ? 0.42f : 0.30f;
  GridMesh& brim = meshes.emplace_back(Material::kBrim, 6, 41, true);
  for (int row = 0; row < brim.rows; ++row) {
    const float r = static_cast<float>(row) / (brim.rows - 1);
    for (int column = 0; column < brim.columns; ++column) {
      const float t = 2.0f * static_cast<float>(column) / (brim.columns - 1) - 1, angle = reach * t;
      const float y = line(std::cos(angle)) + 0.012f, sine = std::sin(angle),
                  cosine = std::cos(angle);
      const Vec3 inner = HeadShape::on_section(head.section(y), y, sine, cosine, 0.06f);
      const float out = length * r * (cap ? std::sqrt(std::max(0.0f, 1 - square(t))) : 1);
      const Vec3 away = cap ? Vec3{0.25f * sine, 0, 1} : Vec3{sine, 0, cosine};
      Vec3 p = inner + away * out;
      p.y -= cap ? 0.10f * r * r + 0.16f * r * square(sine) : 0.07f * r - 0.05f * r * square(sine);
      Vertex& vertex = brim.at(row, column);
      vertex.position = p, vertex.u = t, vertex.v = r;
    }
  }
  brim.compute_normals();
  return meshes;
}

int glasses_part(const HeadShape& head, const Wear& wear, float x, float y) {
  const EyeCurves& eye = head.eye();
  const float ax = std::abs(x), middle = eye.x + 0.012f, line = eye.y - 0.015f;
  const float dx = std::abs(ax - middle) / wear.lens_width,
              dy = std::abs(y - line) / wear.lens_height;
  const float round = std::sqrt(dx * dx + dy * dy);
  const float boxed = std::sqrt(std::sqrt(power4(dx) + power4(dy)));
  const float distance = (mix(round, boxed, wear.lens_square) - 1) * wear.lens_height;
  if (std::abs(distance) < wear.frame) return 1;
  if (distance < 0) return 2;
  const bool bridge =
      ax < middle - wear.lens_width && std::abs(y - line - 0.05f + 0.5f * square(ax)) < wear.frame;
  return bridge ? 1 : 0;
}

std::vector<GridMesh> glasses_meshes(const HeadShape& head, const Wear& wear) {
  std::vector<GridMesh> meshes;
  if (wear.glasses == Glasses::kNone) return meshes;
  const EyeCurves& eye = head.eye();
  const float half = eye.x + 0.02f + wear.lens_width + wear.frame;
  const float front =
      std::max(head.point(0, eye.y + 0.03f).z + 0.03f, head.point(eye.x, eye.y + 0.15f).z + 0.05f);
  const auto depth = [&](float x) { return front - 0.22f * x * x; };
  GridMesh& sheet = meshes.emplace_back(Material::kFrame, 5, 25);
  for (int row = 0; row < sheet.rows; ++row) {
    for (int column = 0; column < sheet.columns; ++column) {
      const float x = half * (2.0f * static_cast<float>(column) / (sheet.columns - 1) - 1);
      const float y = eye.y + mix(0.2f, -0.24f, static_cast<float>(row) / (sheet.rows - 1));
      Vertex& vertex = sheet.at(row, column);
      vertex.position = {x, y, depth(x)}, vertex.u = x, vertex.v = y;
    }
  }
  sheet.compute_normals();
  const HeadShape::Section section = head.section(eye.y + 0.03f);
  for (const float side : {-1.0f, 1.0f}) {
    const Vec3 hinge{side * half, eye.y + 0.05f, depth(half)};
    const Vec3 ear{side * (section.half_width + 0.02f), eye.y + 0.03f, section.centre - 0.05f};
    meshes.push_back(strip(Material::kFrame, hinge, ear, 0.03f, 0.025f + wear.frame, side));
  }
  return meshes;
}

std::vector<GridMesh> mask_meshes(const HeadShape& head) {
  std::vector<GridMesh> meshes;
  const NoseCurves& nose = head.nose();
  const float top = mix(nose.top, nose.tip, 0.45f), bottom = head.chin() + 0.015f;
  GridMesh& sheet = meshes.emplace_back(Material::kMask, 19, 31);
  for (int row = 0; row < sheet.rows; ++row) {
    const float v = static_cast<float>(row) / (sheet.rows - 1);
    for (int column = 0; column < sheet.columns; ++column) {
      const float u = 2.0f * static_cast<float>(column) / (sheet.columns - 1) - 1,
                  angle = 1.18f * u;
      const float y =
          mix(top - 0.17f * u * u, mix(bottom, -0.66f, std::min(1.0f, 1.2f * u * u)), v);
      const HeadShape::Section section = head.section(std::max(y, head.chin() + 0.05f));
      Vec3 p = HeadShape::on_section(section, y, std::sin(angle), std::cos(angle), 0.03f);
      const float ax = std::abs(p.x);
      // Cloth spans from the nose to the chin instead of following the lips.
      const float tent = 0.80f * nose.out * bump(ax / 0.46f, (y - nose.tip) / 0.60f) +
                         0.07f * bump(ax / 0.4f, (y - head.mouth().y) / 0.45f);
      p.z += std::max(head.relief(ax, y), tent) * smooth(0.1f, 0.4f, std::cos(angle)) + 0.012f;
      Vertex& vertex = sheet.at(row, column);
      vertex.position = p, vertex.u = u, vertex.v = v;
    }
  }
  sheet.compute_normals();
  const HeadShape::Section section = head.section(0.0f);
  for (const float side : {-1.0f, 1.0f}) {
    const int column = side < 0 ? 0 : 30;
    for (const int row : {1, 17}) {
      const Vec3 ear{side * (section.half_width + 0.02f), row == 1 ? 0.10f : -0.12f,
                     section.centre - 0.04f};
      meshes.push_back(
          strip(Material::kMask, meshes[0].at(row, column).position, ear, 0.02f, 0.018f, side));
    }
  }
  return meshes;
}

}  // namespace facetrain::synthetic
