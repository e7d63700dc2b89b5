// The names of timm's vision transformers; what differs between them are defaults of the same
// options. DINO, MAE, MoCo v3, FaRL publish weights for these shapes under their own names: choose
// the shape, and set what the file cannot say (heads, pool, image_size).
#include "models/vit.h"

namespace facetrain {
namespace {

struct Shape {
  int64_t dim, depth, heads, patch, pixels = 224;
  double layer_scale = 0;
  bool clip = false;        // a norm in front of the blocks
  bool quick_gelu = false;  // OpenAI's weights
};

template <Shape kShape>
struct Options : VitOptions {
  Options() {
    dim = kShape.dim;
    depth = kShape.depth;
    heads = kShape.heads;
    patch = kShape.patch;
    own_size = kShape.pixels;
    layer_scale = kShape.layer_scale;
    pre_norm = kShape.clip;
    if (kShape.clip) norm_eps = 1e-5;
    if (kShape.quick_gelu) activation = "quick_gelu";
  }
};

template <Shape kShape>
bool add(const char* name, const char* meaning) {
  return Backbones::get().add<Vit, Options<kShape>>(name, meaning);
}

[[maybe_unused]] const bool registered =
    add<Shape{192, 12, 3, 16}>("vit_tiny_patch16_224", "ViT-T/16 (timm), feature of 192") &&
    add<Shape{384, 12, 6, 32}>("vit_small_patch32_224", "ViT-S/32 (timm), feature of 384") &&
    add<Shape{384, 12, 6, 16}>("vit_small_patch16_224", "ViT-S/16 (timm, DINO), feature of 384") &&
    add<Shape{384, 12, 6, 8}>("vit_small_patch8_224", "ViT-S/8 (timm, DINO), feature of 384") &&
    add<Shape{768, 12, 12, 32}>("vit_base_patch32_224", "ViT-B/32 (timm), feature of 768") &&
    add<Shape{768, 12, 12, 16}>("vit_base_patch16_224", "ViT-B/16 (timm, MAE), feature of 768") &&
    add<Shape{768, 12, 12, 8}>("vit_base_patch8_224", "ViT-B/8 (timm, DINO), feature of 768") &&
    add<Shape{1024, 24, 16, 32}>("vit_large_patch32_224", "ViT-L/32 (timm), feature of 1024") &&
    add<Shape{1024, 24, 16, 16}>("vit_large_patch16_224",
                                 "ViT-L/16 (timm, MAE), feature of 1024") &&
    add<Shape{1024, 24, 16, 14}>("vit_large_patch14_224", "ViT-L/14 (timm), feature of 1024") &&
    add<Shape{1280, 32, 16, 14}>("vit_huge_patch14_224", "ViT-H/14 (timm, MAE), feature of 1280");

[[maybe_unused]] const bool registered_dinov2 =
    add<Shape{384, 12, 6, 14, 518, 1e-5}>("vit_small_patch14_dinov2",
                                          "ViT-S/14 of DINOv2 (timm)") &&
    add<Shape{768, 12, 12, 14, 518, 1e-5}>("vit_base_patch14_dinov2",
                                           "ViT-B/14 of DINOv2 (timm)") &&
    add<Shape{1024, 24, 16, 14, 518, 1e-5}>("vit_large_patch14_dinov2",
                                            "ViT-L/14 of DINOv2 (timm)");

[[maybe_unused]] const bool registered_clip =
    add<Shape{768, 12, 12, 32, 224, 0, true, true}>("vit_base_patch32_clip_quickgelu_224",
                                                    "ViT-B/32 of OpenAI's CLIP (timm)") &&
    add<Shape{768, 12, 12, 16, 224, 0, true, true}>("vit_base_patch16_clip_quickgelu_224",
                                                    "ViT-B/16 of OpenAI's CLIP and FaRL (timm)") &&
    add<Shape{1024, 24, 16, 14, 224, 0, true, true}>("vit_large_patch14_clip_quickgelu_224",
                                                     "ViT-L/14 of OpenAI's CLIP (timm)") &&
    add<Shape{768, 12, 12, 16, 224, 0, true, false}>("vit_base_patch16_clip_224",
                                                     "ViT-B/16 of OpenCLIP, exact GELU (timm)");

}  // namespace
}  // namespace facetrain
