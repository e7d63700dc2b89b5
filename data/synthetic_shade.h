// Colour and region of every surface of the picture, in linear light.
#pragma once

#include "data/synthetic_body.h"

namespace facetrain::synthetic {

// LaPa's classes. "Left" is the image's left.
enum Region : uint8_t {
  kBackground = 0,
  kSkin = 1,
  kLeftBrow = 2,
  kRightBrow = 3,
  kLeftEye = 4,
  kRightEye = 5,
  kNose = 6,
  kUpperLip = 7,
  kInnerMouth = 8,
  kLowerLip = 9,
  kHairRegion = 10,
};

// Filled in through references: returned in registers it would be taken apart and put together.
struct Shaded {
  Vec3 colour;
  uint8_t region = kBackground;
};

// Lights in the head's frame.
struct LightRig {
  LightRig(const Lighting& light, const Rotation& head_to_camera);
  // Ambient light on a surface with this normal.
  Vec3 around(Vec3 normal) const { return mix(ground, sky, 0.5f + 0.5f * dot(normal, up)); }
  Vec3 key_direction, key, fill_direction, fill, up, sky, ground;
};

// What a point of a surface sends to the camera, given its material's answer to light.
struct Surface {
  Vec3 albedo;
  Vec3 normal;
  float gloss = 0;        // strength of the highlight
  bool sharp = false;     // narrow (wet, metal) or wide highlight
  float occlusion = 1;    // share of the ambient light that arrives
  float translucent = 0;  // how far light wanders under the surface (skin)
};

class Shader {
 public:
  Shader(const HeadShape& head, const HairShape& hair, const Nuisance& nuisance,
         const Camera& camera, const LightRig& light, const ShadowMap& shadow);

  // Fills in `lit`, and of face and hair `light` and `shine`, where the camera may see the mesh.
  // A face's w becomes the strength of its freckles.
  void light_vertices(GridMesh& mesh) const;
  // `vertex` is mixed from such vertices; its normal need not have unit length.
  void shade(Material material, const Vertex& vertex, Shaded& shaded) const;
  // What a lens makes of the colour behind it; `x`, `y` in pixels of the image.
  Vec3 through_lens(Vec3 behind, float x, float y) const;

 private:
  struct Feature;  // skin features collected at one point
  void light_skin(Vertex& vertex, Vec3 view) const;
  void light_hair(Vertex& vertex, Vec3 normal, bool behind) const;
  void shade_face(const Vertex& vertex, Shaded& shaded) const;
  Vec3 shade_hair(const Vertex& vertex) const;
  Vec3 shade_cloth(Material material, const Vertex& vertex) const;
  // Light that reaches the surface, and what a gloss of 1 mirrors of it.
  Vec3 diffuse(const Surface& surface, float lit) const;
  Vec3 shine(const Surface& surface, Vec3 view, float lit) const;
  Vec3 lit_surface(const Surface& surface, Vec3 view, float lit) const;

  void add_complexion(const Vertex& vertex, Feature& feature) const;
  void add_lines(const Vertex& vertex, Feature& feature) const;
  void add_nose(const Vertex& vertex, Feature& feature) const;
  void add_mouth(const Vertex& vertex, Feature& feature) const;
  void add_inner_mouth(float x, float y, float t, Feature& feature) const;
  void add_beard(const Vertex& vertex, Feature& feature) const;
  void add_brow(const Vertex& vertex, Feature& feature) const;
  void add_scalp(const Vertex& vertex, Feature& feature) const;
  void add_eye(const Vertex& vertex, Shaded& shaded) const;
  Vec3 eyeball(const Vertex& vertex, float side, float below_lid) const;

  const HeadShape& head_;
  const HairShape& hair_;
  const Nuisance& nuisance_;
  const Camera& camera_;
  const LightRig& light_;
  const ShadowMap& shadow_;
  float pixel_;  // size of a pixel in head units
  float aged_;
  Vec3 skin_, brow_, beard_, iris_, gaze_, hair_colour_;
  Vec3 half_;  // between the key light and the camera, as the head's middle sees them
  float socket_z_;
};

}  // namespace facetrain::synthetic
