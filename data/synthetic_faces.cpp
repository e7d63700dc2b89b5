#include "data/synthetic_faces.h"

#include "core/check.h"
#include "data/synthetic_body.h"
#include "data/synthetic_labels.h"
#include "data/synthetic_raster.h"
#include "data/synthetic_render.h"
#include "data/synthetic_scene.h"
#include "data/synthetic_shade.h"

namespace facetrain {
namespace synthetic {
namespace {

// The face's middle stays where the middle of the five template points of a 112-pixel image is.
constexpr Vec3 kAnchor{0, -0.2256f, 0.62f};
constexpr float kAnchorX = 56.03f, kAnchorY = 71.9f, kScale = 58.0f;

Camera make_camera(const Nuisance& nuisance, int size) {
  const float pixel = static_cast<float>(size) / 112;
  const auto place = [&](float at) { return (at + 0.5f) * pixel - 0.5f; };
  return {head_rotation(nuisance.yaw, nuisance.pitch, nuisance.roll),
          kAnchor,
          place(kAnchorX + nuisance.shift_x),
          place(kAnchorY + nuisance.shift_y),
          kScale * pixel * nuisance.scale,
          nuisance.distance};
}

// Everything that has a surface.
struct Model {
  Model(const HeadShape& head, const HairShape& hair, const Wear& wear) {
    solid.push_back(head_mesh(head));
    solid.push_back(neck_mesh(head));
    solid.push_back(clothes_mesh(head));
    for (const float side : {-1.0f, 1.0f}) solid.push_back(ear_mesh(head, side));
    for (auto& mesh : hat_meshes(head, wear)) solid.push_back(std::move(mesh));
    if (wear.mask) {
      for (auto& mesh : mask_meshes(head)) solid.push_back(std::move(mesh));
    }
    if (!hair.none()) strands.push_back(hair.mesh(head));
    glasses = glasses_meshes(head, wear);
  }
  std::vector<GridMesh> solid, strands, glasses;
};

void draw_shadow(const Model& model, ShadowMap& shadow) {
  for (const auto& mesh : model.solid) {
    if (mesh.material == Material::kClothes) continue;
    shadow.draw(mesh, mesh.material == Material::kFace ? 2 : 1);
  }
  for (const auto& mesh : model.strands) shadow.draw(mesh, 2);
}

void draw_model(const Model& model, const HeadShape& head, const HairShape& hair, const Wear& wear,
                Rasterizer& rasterizer) {
  for (const auto& mesh : model.solid) rasterizer.draw(mesh);
  for (const auto& mesh : model.strands) {
    rasterizer.draw(mesh, [&](float u, float v, float w) { return hair.keep(u, v, w); });
  }
  // The sheet of the lenses comes first, the two temples are solid.
  for (size_t i = 0; i < model.glasses.size(); ++i) {
    if (i > 0) {
      rasterizer.draw(model.glasses[i]);
    } else {
      rasterizer.draw(model.glasses[i],
                      [&](float u, float v, float) { return glasses_part(head, wear, u, v); });
    }
  }
}

// Colours and classes of a pixel from its four samples: samples of one mesh are shaded together.
class Resolver {
 public:
  Resolver(const Rasterizer& rasterizer, const Shader& shader, bool dark_lenses)
      : rasterizer_(rasterizer), shader_(shader), dark_lenses_(dark_lenses) {}

  void resolve(Canvas& canvas, Image& mask) const {
    for (int y = 0; y < canvas.size; ++y) {
      for (int x = 0; x < canvas.size; ++x) {
        const int pixel = y * canvas.size + x;
        resolve_pixel(x, y, canvas.pixels[pixel], mask.pixels[pixel]);
      }
    }
  }

 private:
  void shade(uint32_t triangle, float x, float y, Shaded& shaded) const {
    const Vertex vertex = rasterizer_.interpolate(triangle, x, y);
    shader_.shade(rasterizer_.drawn(triangle).mesh->material, vertex, shaded);
  }

  void resolve_pixel(int x, int y, Vec3& colour, uint8_t& region) const {
    const SampleBuffer& buffer = rasterizer_.buffer();
    const int first = 2 * y * buffer.stride() + 2 * x, second = first + buffer.stride();
    const uint32_t triangles[4] = {buffer.triangle(first), buffer.triangle(first + 1),
                                   buffer.triangle(second), buffer.triangle(second + 1)};
    const uint32_t differ = (triangles[0] ^ triangles[1]) | (triangles[0] ^ triangles[2]) |
                            (triangles[0] ^ triangles[3]);
    if (differ >> 24 != 0) {
      blend(triangles, x, y, colour, region);
    } else if (triangles[0] != SampleBuffer::kNone) {
      Shaded shaded;
      shade(triangles[0], x, y, shaded);
      colour = shaded.colour, region = shaded.region;
    }
    const int lens = rasterizer_.lens(y * buffer.size() + x);
    if (lens == 0) return;
    colour = mix(colour, shader_.through_lens(colour, x, y), 0.25f * std::min(lens, 4));
    if (dark_lenses_ && lens > 1) region = kBackground;
  }

  // A pixel on an outline: each mesh in it is shaded at the middle of its samples.
  void blend(const uint32_t* triangles, int x, int y, Vec3& colour, uint8_t& region) const {
    bool done[4] = {};
    Vec3 sum;
    int largest = 0;
    for (int i = 0; i < 4; ++i) {
      if (done[i]) continue;
      float dx = 0, dy = 0;
      int count = 0;
      for (int k = i; k < 4; ++k) {
        if (triangles[k] >> 24 != triangles[i] >> 24) continue;
        done[k] = true, ++count;
        dx += k % 2 == 0 ? -0.25f : 0.25f, dy += k < 2 ? -0.25f : 0.25f;
      }
      Shaded shaded{colour};
      if (triangles[i] != SampleBuffer::kNone)
        shade(triangles[i], x + dx / count, y + dy / count, shaded);
      sum += shaded.colour * (0.25f * count);
      if (count > largest) largest = count, region = shaded.region;
    }
    colour = sum;
  }

  const Rasterizer& rasterizer_;
  const Shader& shader_;
  bool dark_lenses_;
};

void paste(const Image& tile, int row, int column, Image& sheet) {
  const size_t row_bytes = static_cast<size_t>(3) * tile.width;
  for (int y = 0; y < tile.height; ++y) {
    const size_t to =
        (static_cast<size_t>(row * tile.height + y) * sheet.width + column * tile.width) * 3;
    std::copy_n(&tile.pixels[y * row_bytes], row_bytes, &sheet.pixels[to]);
  }
}

}  // namespace

SyntheticFace render_face(const FaceIdentity& identity, const Nuisance& nuisance, int size) {
  const HeadShape head(identity, nuisance.expression, nuisance.age);
  const HairShape hair(head, nuisance.hair, nuisance.wear);
  Model model(head, hair, nuisance.wear);
  const Camera camera = make_camera(nuisance, size);
  Rasterizer rasterizer(camera, size);
  draw_model(model, head, hair, nuisance.wear, rasterizer);
  const LightRig light(nuisance.light, camera.rotation());
  ShadowMap shadow(light.key_direction);
  draw_shadow(model, shadow);

  SyntheticFace face;
  face.mask = Image{size, size, 1, std::vector<uint8_t>(static_cast<size_t>(size) * size)};
  Canvas canvas = paint_background(nuisance, size);
  const Shader shader(head, hair, nuisance, camera, light, shadow);
  for (auto* meshes : {&model.solid, &model.strands, &model.glasses}) {
    for (auto& mesh : *meshes) shader.light_vertices(mesh);
  }
  Resolver(rasterizer, shader, nuisance.wear.glasses == Glasses::kDark).resolve(canvas, face.mask);
  std::vector<float> cover;
  paint_occluder(nuisance, canvas, cover);
  for (size_t i = 0; i < cover.size(); ++i) {
    if (cover[i] > 0.5f) face.mask.pixels[i] = kBackground;
  }
  face.image = develop(nuisance, canvas);
  write_labels(head, nuisance, rasterizer, cover, face);
  return face;
}

}  // namespace synthetic

SyntheticFace render_synthetic_face(const SyntheticOptions& options, int64_t identity,
                                    int64_t image) {
  FT_CHECK(options.size >= 16 && options.size <= 2048,
           "synthetic faces of {} pixels: wanted 16 to 2048", options.size);
  FT_CHECK(identity >= 0 && image >= 0, "synthetic identity {}, image {}: wanted 0 or more",
           identity, image);
  const synthetic::FaceIdentity face = synthetic::draw_identity(options.seed, identity);
  const synthetic::Nuisance nuisance =
      options.nuisance ? synthetic::draw_nuisance(options.seed, identity, image, face)
                       : synthetic::plain_nuisance(face);
  return synthetic::render_face(face, nuisance, options.size);
}

Image synthetic_contact_sheet(const SyntheticOptions& options, int rows, int columns) {
  FT_CHECK(rows >= 1 && columns >= 1, "contact sheet of {} x {}: wanted at least one tile", rows,
           columns);
  Image sheet{columns * options.size, rows * options.size, 3, {}};
  sheet.pixels.resize(static_cast<size_t>(3) * sheet.width * sheet.height);
  for (int row = 0; row < rows; ++row) {
    const synthetic::FaceIdentity face = synthetic::draw_identity(options.seed, row);
    synthetic::Nuisance plain = synthetic::plain_nuisance(face);
    for (int column = 0; column < columns; ++column) {
      if (column == 1) plain.yaw = synthetic::kPi / 6;
      const SyntheticFace tile = column < 2 ? synthetic::render_face(face, plain, options.size)
                                            : render_synthetic_face(options, row, column - 2);
      synthetic::paste(tile.image, row, column, sheet);
    }
  }
  return sheet;
}

}  // namespace facetrain
