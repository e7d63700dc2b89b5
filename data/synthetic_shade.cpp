#include "data/synthetic_shade.h"

namespace facetrain::synthetic {
namespace {

// Surfaces that are seen from both sides.
bool is_sheet(Material material) {
  return material == Material::kHair || material == Material::kEar || material == Material::kBrim;
}

}  // namespace

LightRig::LightRig(const Lighting& light, const Rotation& head_to_camera) {
  const auto to_head = [&](Vec3 v) { return head_to_camera.inverse(v); };
  key_direction = to_head(direction(light.azimuth, light.elevation));
  // The fill comes from the other side, a little from below.
  fill_direction =
      to_head(direction(-1.2f * light.azimuth + (light.azimuth > 0 ? -0.4f : 0.4f), -0.1f));
  up = to_head(Vec3{0, 1, 0});
  key = light.tint * light.key;
  const Vec3 counter{2 - light.tint.x, 2 - light.tint.y, 2 - light.tint.z};
  fill = counter * light.fill;
  sky = mix(Vec3{1, 1, 1}, counter, 0.6f) * light.ambient;
  ground = mix(Vec3{1, 0.96f, 0.9f}, light.tint, 0.5f) * (0.55f * light.ambient);
}

Shader::Shader(const HeadShape& head, const HairShape& hair, const Nuisance& nuisance,
               const Camera& camera, const LightRig& light, const ShadowMap& shadow)
    : head_(head),
      hair_(hair),
      nuisance_(nuisance),
      camera_(camera),
      light_(light),
      shadow_(shadow),
      pixel_(1 / camera.scale()),
      aged_(smooth(32, 76, nuisance.age)) {
  const FaceIdentity& face = head.face();
  constexpr Vec3 kLight{0.76f, 0.47f, 0.34f}, kDark{0.15f, 0.070f, 0.038f};
  const auto tone = [&](float a, float b) { return a * std::pow(b / a, face.skin_tone); };
  skin_ = {tone(kLight.x, kDark.x), tone(kLight.y, kDark.y), tone(kLight.z, kDark.z)};
  skin_ = skin_ * Vec3{1 + 0.05f * face.skin_warmth, 1, 1 - 0.12f * face.skin_warmth};
  const Vec3 grey{0.42f, 0.41f, 0.40f};
  hair_colour_ = mix(nuisance.hair.colour, grey, nuisance.hair.grey);
  const Vec3 dark = mix(Vec3{0.035f, 0.022f, 0.015f}, nuisance.hair.colour * 0.6f, 0.4f);
  brow_ = mix(dark, grey * 0.6f, 0.55f * nuisance.hair.grey);
  beard_ = mix(mix(dark, nuisance.hair.colour, 0.4f), grey, 0.7f * nuisance.hair.grey);
  constexpr Vec3 kBrown{0.05f, 0.023f, 0.010f}, kGreen{0.10f, 0.10f, 0.045f};
  constexpr Vec3 kBlue{0.10f, 0.17f, 0.24f};
  const float iris = face.iris_tone;
  iris_ = iris < 0.6f ? mix(kBrown, kGreen, iris / 0.6f) : mix(kGreen, kBlue, (iris - 0.6f) / 0.4f);
  gaze_ = direction(nuisance.gaze_yaw, nuisance.gaze_pitch);
  half_ = unit(light_.key_direction + unit(camera_.towards(Vec3{})));
  socket_z_ = head.point(head.eye().x, head.eye().y).z - 0.105f;
}

Vec3 Shader::diffuse(const Surface& s, float lit) const {
  // Under skin the light wanders, red the farthest: the terminator is soft and warm, and so is the
  // edge of a cast shadow.
  const float facing = dot(s.normal, light_.key_direction);
  const float red = 0.30f * s.translucent, other = 0.10f * s.translucent;
  const Vec3 wrapped{std::max(0.0f, (facing + red) / (1 + red)),
                     std::max(0.0f, (facing + other) / (1 + other)),
                     std::max(0.0f, (facing + 0.6f * other) / (1 + 0.6f * other))};
  const Vec3 arrives{lit + s.translucent * 0.45f * lit * (1 - lit), lit, lit};
  const float fill = std::max(0.0f, 0.15f + 0.85f * dot(s.normal, light_.fill_direction));
  // What is reflected inside a fold of skin comes out redder.
  const float closed = s.translucent * (1 - s.occlusion);
  const Vec3 open{s.occlusion + 0.25f * closed, s.occlusion, s.occlusion - 0.1f * closed};
  return light_.key * wrapped * arrives + light_.fill * fill + light_.around(s.normal) * open;
}

Vec3 Shader::shine(const Surface& s, Vec3 view, float lit) const {
  const Vec3 half = unit(light_.key_direction + view);
  const float aligned = std::max(0.0f, dot(s.normal, half));
  const float lobe = s.sharp ? power16(power4(aligned)) : power16(aligned);
  const float grazing = 1 - std::max(0.0f, dot(s.normal, view));
  const float facing = clamp01(3 * dot(s.normal, light_.key_direction));
  return light_.key * (lobe * lit * facing) +
         light_.around(s.normal) * (0.25f * s.occlusion * power4(grazing));
}

Vec3 Shader::lit_surface(const Surface& s, Vec3 view, float lit) const {
  const Vec3 colour = s.albedo * diffuse(s, lit);
  return s.gloss > 0 ? colour + shine(s, view, lit) * s.gloss : colour;
}

void Shader::light_vertices(GridMesh& mesh) const {
  const bool sheet = is_sheet(mesh.material);
  for (Vertex& vertex : mesh.vertices) {
    const Vec3 towards = camera_.towards(vertex.position);
    const float facing = dot(vertex.normal, towards);
    if (!sheet && facing < -4) continue;  // well behind the outline: in no visible triangle
    const bool behind = sheet && facing < 0;
    const Vec3 normal = behind ? vertex.normal * -1.0f : vertex.normal;
    if (dot(normal, light_.key_direction) > -0.35f)
      vertex.lit = shadow_.lit(vertex.position, normal);
    if (mesh.material == Material::kFace) light_skin(vertex, unit(towards));
    if (mesh.material == Material::kHair) light_hair(vertex, normal, behind);
  }
}

void Shader::light_hair(Vertex& vertex, Vec3 normal, bool behind) const {
  if (behind) vertex.lit *= 0.3f;
  const float facing = dot(normal, light_.key_direction);
  const float wrapped = std::max(0.0f, (facing + 0.25f) / 1.25f);
  const float open = mix(0.75f, 1.0f, smooth(0.0f, 0.2f, vertex.w));
  vertex.light =
      light_.key * (wrapped * vertex.lit) + light_.around(normal) * open + light_.fill * 0.4f;
  vertex.shine = light_.key * (0.55f * vertex.lit * smooth(-0.1f, 0.5f, facing));
}

void Shader::shade(Material material, const Vertex& vertex, Shaded& shaded) const {
  if (material == Material::kFace) return shade_face(vertex, shaded);
  const bool hair = material == Material::kHair;
  shaded.colour = hair ? shade_hair(vertex) : shade_cloth(material, vertex);
  shaded.region = hair ? kHairRegion : kBackground;
}

Vec3 Shader::shade_hair(const Vertex& vertex) const {
  const HairStyle& style = hair_.style();
  const float u = vertex.u, v = vertex.v;
  // Curls wave to and fro along the strand; neighbouring locks are out of step.
  const float phase = 13 * v + 8 * noise(2.6f * u + 5, 0.9f * v);
  const float curl = style.wave * std::sin(phase);
  const float across =
      0.9f * u + 0.25f * style.sweep * v + 0.040f * curl + 0.09f * (noise(2 * u, 2.5f * v) - 0.5f);
  const float fine = noise(46 * across, 2.2f * v + 7), thin = noise(90 * across + 3, 5 * v);
  const float lock = noise(11 * across, 1.2f * v + 3);
  // Strand by strand brightness; locks lie over each other, the deep ones in shade.
  const float shade = 0.42f + 0.50f * lock + 0.42f * (fine - 0.5f) + 0.25f * (thin - 0.5f);
  const float grey =
      0.85f * style.grey * smooth(0.9f - style.grey, 1.5f - style.grey, 0.7f * fine + 0.6f * lock);
  const Vec3 strand =
      mix(style.colour, Vec3{0.36f, 0.35f, 0.34f}, grey) * std::max(0.15f, shade * 1.25f);
  // Strands run down the shell, in the plane across its normal: their highlights are bands across
  // (Kajiya and Kay, 1989).
  const Vec3 down{0.35f * style.sweep + 0.5f * style.wave * std::cos(phase), -1, 0};
  const Vec3 normal = vertex.normal;
  const float outwards = dot(down, normal), share = outwards / dot(normal, normal);
  const float along = (dot(down, half_) - share * dot(normal, half_)) /
                      std::sqrt(std::max(dot(down, down) - share * outwards, 1e-6f));
  const float tilt = along + 0.35f * (fine - 0.5f) - 0.08f;
  const float band = square(power4(std::max(0.0f, 1 - tilt * tilt)));
  const Vec3 sheen = mix(Vec3{0.10f, 0.10f, 0.10f}, strand * 1.5f, 0.6f);
  return strand * vertex.light + sheen * vertex.shine * (band * shade);
}

Vec3 Shader::shade_cloth(Material material, const Vertex& vertex) const {
  const Wear& wear = nuisance_.wear;
  const float u = vertex.u, v = vertex.v;
  const Vec3 view = unit(camera_.towards(vertex.position));
  Surface s{{}, unit(vertex.normal)};
  if (is_sheet(material) && dot(s.normal, view) < 0) s.normal = s.normal * -1.0f;
  if (material == Material::kEar) {
    s.albedo = skin_ * Vec3{1.02f, 0.86f, 0.82f};
    s.occlusion = mix(0.45f, 1, smooth(0.1f, 0.75f, vertex.w));
    s.translucent = 1.3f, s.gloss = 0.05f;
  } else if (material == Material::kNeck) {
    const float mottle = 1 + 0.12f * (noise2(9 * u, 9 * v) - 0.5f);
    s.albedo = skin_ * (0.92f * mottle);
    s.occlusion = mix(0.35f, 0.95f, smooth(head_.chin() + 0.12f, head_.chin() - 0.45f, v));
    s.translucent = 1, s.gloss = 0.03f;
  } else if (material == Material::kClothes) {
    s.albedo = wear.clothes_colour * (0.85f + 0.3f * noise2(14 * u, 30 * v));
    if (v < 0.07f) s.albedo = s.albedo * 0.6f;
  } else if (material == Material::kMask) {
    const float pleat = std::abs(v * 5.5f - std::floor(v * 5.5f) - 0.5f) - 0.5f;
    const bool pleated = v > 0.22f && v < 0.80f;
    const float fold = pleated ? bump(pleat / 0.22f, 0) : 0;
    s.normal =
        unit(s.normal + Vec3{0, -0.45f * fold + 0.25f * (noise(3 * u + 5, 4 * v) - 0.5f), 0});
    s.albedo = wear.mask_colour * (0.95f - 0.22f * fold + 0.06f * noise(60 * u, 60 * v));
    if (v < 0.05f || v > 0.95f || std::abs(u) > 0.965f) s.albedo = s.albedo * 0.82f;
    s.occlusion = 0.95f;
  } else if (material == Material::kFrame) {
    s.albedo = wear.frame_colour, s.gloss = 0.35f, s.sharp = true;
  } else {
    const bool beanie = wear.hat == Hat::kBeanie, band = wear.hat == Hat::kBrim && v > 0.78f;
    s.albedo = wear.hat_colour * (0.88f + 0.24f * noise2(26 * u, 26 * v));
    if (material == Material::kHat && beanie) {
      const float rib = std::cos(62 * u), edge = bump((v - 0.70f) / 0.05f, 0);
      s.albedo =
          s.albedo * (0.92f + 0.14f * rib - 0.4f * edge + 0.15f * (noise(20 * u, 60 * v) - 0.5f));
    } else if (material == Material::kHat && !band) {
      // Six panels meet in seams.
      const float panel = u * (3 / kPi) + 0.5f, seam = std::abs(panel - std::floor(panel) - 0.5f);
      s.albedo = s.albedo * (1 - 0.35f * bump(seam / 0.018f, 0));
    } else if (band) {
      s.albedo = s.albedo * 0.35f;
    } else {
      s.albedo = s.albedo * (v > 0.93f ? 0.7f : 0.95f);
    }
  }
  return lit_surface(s, view, vertex.lit);
}

Vec3 Shader::through_lens(Vec3 behind, float x, float y) const {
  const bool dark = nuisance_.wear.glasses == Glasses::kDark;
  const float shift = static_cast<float>(nuisance_.key % 89);
  const float streak = smooth(0.62f, 0.80f, noise(0.045f * (x + 0.7f * y) + shift, shift));
  const float sky = clamp01(0.9f - 0.02f * y);
  const Vec3 reflected =
      light_.sky * (dark ? 0.05f + 0.10f * sky + 0.18f * streak : 0.012f + 0.10f * streak);
  return behind * (dark ? 0.07f : 0.93f) + reflected;
}

}  // namespace facetrain::synthetic
