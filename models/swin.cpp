// Swin (Liu 2021, arXiv:2103.14030) under the names and shapes of timm's current layout, in which
// a stage's downsampling comes first; initialised as timm does. Faces: 112 px with patch 2 and
// window 7 (SwinFace), 120 px with patch 6 and window 5 (PETALface), by options.
#include "models/swin.h"

#include <cmath>

#include "core/check.h"
#include "core/freeze.h"
#include "core/log.h"
#include "models/init_weights.h"
#include "models/transformer_layers.h"
#include "models/translated_weights.h"
#include "models/trunk.h"
#include "models/window_attention.h"

namespace facetrain {
namespace {

using torch::Tensor;

constexpr double kEps = 1e-5;

struct SwinOptions : TrunkOptions {
  int64_t patch = 4, window = 7, embed_dim = 0;
  std::vector<int64_t> heads;
  std::string condition = "none";
  double condition_weight = 1;
  void fields(auto& f) {
    TrunkOptions::fields(f);
    f("patch", patch, range(1, 64), "pixels of a patch's side");
    f("window", window, range(1, 64), "patches of a window's side; a smaller map is one window");
    f("embed_dim", embed_dim, range(0, 4096),
      "channels of the first stage at width 1; 0: the network's own");
    f("heads", heads, "heads of each stage, [3, 6, 12, 24]; empty: the network's own");
    f("condition", condition, one_of("none", "stages", "as_released"),
      "the two-number slot behind every stage (SOLIDER); as_released: the last one, which its code "
      "does not use, is kept but not used");
    block_fields(f);
    f("condition_weight", condition_weight, range(0, 1),
      "λ where nobody gives one: 1 semantics, 0 appearance");
  }
};

struct Layout {
  int64_t embed_dim;
  std::vector<int64_t> depths, heads;
};

struct BlockShape {
  int64_t dim, heads, window, shift;
  double drop_path;
  std::string name;
};

class Block : public torch::nn::Module {
 public:
  explicit Block(const BlockShape& s)
      : norm1(register_module("norm1", LayerNorm(s.dim, kEps))),
        attn(register_module("attn", WindowAttention(s.dim, s.heads, s.window, s.shift))),
        norm2(register_module("norm2", LayerNorm(s.dim, kEps))),
        mlp(register_module("mlp", Mlp(s.dim, 4 * s.dim))),
        drop_path1(register_module("drop_path1", DropPath(s.drop_path, s.name + ".drop_path1"))),
        drop_path2(register_module("drop_path2", DropPath(s.drop_path, s.name + ".drop_path2"))) {}

  Tensor forward(const Tensor& x) {  // [B, H, W, C]
    const auto y = x + drop_path1(attn(norm1(x)));
    return y + drop_path2(mlp(norm2(y)));
  }

 private:
  LayerNorm norm1;
  WindowAttention attn;
  LayerNorm norm2;
  Mlp mlp;
  DropPath drop_path1, drop_path2;
};

// Four neighbours become one pixel; a side that is odd gets a row of zeros.
class PatchMerging : public torch::nn::Module {
 public:
  explicit PatchMerging(int64_t dim)
      : norm(register_module("norm", LayerNorm(4 * dim, kEps))),
        reduction(register_module("reduction", Linear(4 * dim, 2 * dim, /*bias=*/false))) {}

  Tensor forward(const Tensor& map) {
    const int64_t below = map.size(1) % 2, right = map.size(2) % 2, channels = map.size(3);
    const auto x =
        below + right > 0 ? at::constant_pad_nd(map, {0, 0, 0, right, 0, below}, 0) : map;
    const int64_t height = x.size(1) / 2, width = x.size(2) / 2;
    const auto four = x.reshape({-1, height, 2, width, 2, channels})
                          .permute({0, 1, 3, 4, 2, 5})  // the row changes fastest
                          .reshape({-1, height, width, 4 * channels});
    return reduction(norm(four));
  }

 private:
  LayerNorm norm;
  Linear reduction;
};

class PatchEmbed : public torch::nn::Module {
 public:
  PatchEmbed(int64_t dim, int64_t patch)
      : proj(register_module("proj", Conv2d(ConvOptions{3, dim, patch, patch, 0, 1, true}))),
        norm(register_module("norm", LayerNorm(dim, kEps))) {}
  Tensor forward(const Tensor& images) { return norm(proj(images).permute({0, 2, 3, 1})); }

  Conv2d proj;
  LayerNorm norm;
};

struct Stage {
  std::shared_ptr<PatchMerging> downsample;  // none in the first stage
  std::vector<std::shared_ptr<Block>> blocks;
};

class Swin : public Trunk,
             public ConditionedBackbone,
             public FreezePolicy,
             public WeightFitter,
             public WeightTranslator {
 public:
  Swin(const SwinOptions& options, const BackboneContext& context, const Layout& layout)
      : Trunk(options, context, layout.depths, {"layers.", ".blocks."}),
        options_(options),
        heads_(options.heads.empty() ? layout.heads : options.heads) {
    if (options_.embed_dim == 0) options_.embed_dim = layout.embed_dim;
    check_shape();
    const int64_t dim = options.scaled(options_.embed_dim);
    patch_embed = register_module("patch_embed", std::make_shared<PatchEmbed>(dim, options.patch));
    const auto all = register_module("layers", std::make_shared<torch::nn::Module>());
    for (int64_t stage = 0; stage < count(); ++stage) add_stage(*all, stage, dim << stage);
    const int64_t last = dim << (count() - 1);
    norm = register_module("norm", LayerNorm(last, kEps));
    if (conditioned()) add_condition(dim);
    add_head(last);
    initialise(context.seed);
  }

  Features forward(const Tensor& images) override {
    if (!conditioned()) return run(images, {});
    return forward_conditioned(
        images, torch::full({1}, options_.condition_weight, patch_embed->norm->weight.options()));
  }

  bool conditioned() const override { return options_.condition != "none"; }
  Features forward_conditioned(const Tensor& images, const Tensor& lambda) override {
    FT_CHECK(conditioned(), "this Swin has no condition slot: set model.condition to stages");
    FT_CHECK(lambda.dim() == 1 && (lambda.size(0) == 1 || lambda.size(0) == images.size(0)),
             "wanted one condition for each of {} images, found [{}]", images.size(0),
             fmt::join(lambda.sizes(), ", "));
    return run(images, torch::stack({lambda, 1 - lambda}, 1));
  }

  std::vector<std::string> frozen() const override {
    if (options_.condition != "as_released") return {};
    return {
        fmt::format("semantic_embed_*.{}.*", count() - 1)};  // part of the files, used by no one
  }

  // A bias table of another window is interpolated (bicubic), as Swin's authors do it.
  bool fits(const std::string& name, torch::IntArrayRef stored) const override {
    if (!name.ends_with("relative_position_bias_table") || stored.size() != 2) return false;
    const auto table = named_parameters()[name];
    const int64_t side = table_side(stored[0]);
    return stored[1] == table.size(1) && side * side == stored[0] && side % 2 == 1;
  }
  Tensor fit(const std::string& name, const Tensor& stored) const override {
    const int64_t from = table_side(stored.size(0)), heads = stored.size(1);
    const int64_t to = table_side(named_parameters()[name].size(0));
    log_info("{}: window {} made {} by interpolation", name, (from + 1) / 2, (to + 1) / 2);
    const auto map = stored.to(torch::kFloat).t().reshape({1, heads, from, from});
    const std::vector<int64_t> size{to, to};
    return at::upsample_bicubic2d(map, size, /*align_corners=*/false, c10::nullopt, c10::nullopt)
        .view({heads, to * to})
        .t();
  }
  std::unique_ptr<WeightsFile> translated(std::unique_ptr<WeightsFile> file) const override {
    return translate_swin(std::move(file), count());
  }

  // What stands behind a stage belongs to the next one's first block.
  int64_t layer_of(const std::string& parameter) const override {
    constexpr std::string_view kSlot = "semantic_embed_w.";  // as long as the other's
    if (!parameter.starts_with(kSlot.substr(0, kSlot.size() - 2)))
      return Trunk::layer_of(parameter);
    const int64_t stage = std::stoll(parameter.substr(kSlot.size()));
    return stage + 1 < count() ? Trunk::layer_of(block_name(stage + 1, 0) + ".") : layers() - 1;
  }

 private:
  int64_t count() const { return static_cast<int64_t>(depths().size()); }  // of stages
  static int64_t table_side(int64_t rows) {
    return std::llround(std::sqrt(static_cast<double>(rows)));
  }

  void check_shape() const {
    FT_CHECK(!depths().empty() && depths().size() <= 4 && heads_.size() == depths().size(),
             "model.depths [{}] and model.heads [{}] name the same stages, four at most",
             fmt::join(depths(), ", "), fmt::join(heads_, ", "));
    FT_CHECK(image_size() >= 16 && image_size() % options_.patch == 0,
             "model.patch {} does not divide images of {} pixels (16 or more): choose another "
             "model.image_size or patch",
             options_.patch, image_size());
  }

  void add_stage(torch::nn::Module& all, int64_t stage, int64_t dim) {
    const auto k = static_cast<size_t>(stage);
    const auto module =
        all.register_module(std::to_string(stage), std::make_shared<torch::nn::Module>());
    auto& made = stages.emplace_back();
    if (stage > 0)
      made.downsample =
          module->register_module("downsample", std::make_shared<PatchMerging>(dim / 2));
    const auto blocks = module->register_module("blocks", std::make_shared<torch::nn::Module>());
    const int64_t side = side_of(stage), window = std::min(options_.window, side);
    for (int64_t block = 0; block < depths()[k]; ++block, ++made_blocks_) {
      const int64_t shift = block % 2 == 0 || side <= window ? 0 : options_.window / 2;
      const BlockShape shape{
          dim, heads_[k], window, shift, drop_path_of(made_blocks_), block_name(stage, block)};
      made.blocks.push_back(
          blocks->register_module(std::to_string(block), std::make_shared<Block>(shape)));
    }
  }

  // Patches along a side of a stage's map: halved between stages and rounded up.
  int64_t side_of(int64_t stage) const {
    int64_t side = image_size() / options_.patch;
    for (int64_t k = 0; k < stage; ++k) side = (side + 1) / 2;
    return side;
  }

  // Behind a stage the map has been merged already, but for the last.
  void add_condition(int64_t dim) {
    const auto scales = register_module("semantic_embed_w", std::make_shared<torch::nn::Module>());
    const auto shifts = register_module("semantic_embed_b", std::make_shared<torch::nn::Module>());
    for (int64_t stage = 0; stage < count(); ++stage) {
      const int64_t channels = dim << std::min(stage + 1, count() - 1);
      const auto name = std::to_string(stage);
      condition_scales.push_back(scales->register_module(name, Linear(2, channels)));
      condition_shifts.push_back(shifts->register_module(name, Linear(2, channels)));
    }
  }

  // x · softplus(A λ) + C λ with λ = [B, 2] the pair (λ, 1 - λ).
  Tensor condition(const Tensor& x, size_t stage, const Tensor& pair) {
    if (!pair.defined()) return x;
    const auto over = [](const Tensor& y) { return y.unsqueeze(1).unsqueeze(1); };
    return x * over(at::softplus(condition_scales[stage](pair))) +
           over(condition_shifts[stage](pair));
  }

  Features run(const Tensor& images, const Tensor& pair) {
    check_input(images, options_.patch, options_.patch);
    Features features;
    auto x = patch_embed->forward(images);
    for (size_t stage = 0; stage < stages.size(); ++stage) {
      if (stage > 0) x = condition(stages[stage].downsample->forward(x), stage - 1, pair);
      auto& blocks = stages[stage].blocks;
      for (size_t k = 0; k < blocks.size(); ++k) {
        x = run_block(blocks[k], x);
        tap(features, static_cast<int64_t>(stage), static_cast<int64_t>(k),
            x.permute({0, 3, 1, 2}));
      }
      features.pyramid.push_back(x.permute({0, 3, 1, 2}));
    }
    if (options_.condition == "stages") x = condition(x, stages.size() - 1, pair);
    features.tokens = norm(x).flatten(1, 2);
    features.embedding = feature(to_full_precision(features.tokens).mean(1));
    return features;
  }

  // Linear layers and bias tables N(0, 0.02), biases 0; the patch convolution as PyTorch's.
  void initialise(uint64_t seed) {
    for (const auto& item : named_parameters())
      if (item.value().dim() == 2) init_trunc_normal(item.value(), seed, item.key(), 0.02);
    init_as_pytorch(patch_embed->proj->weight, patch_embed->proj->bias, seed, "patch_embed.proj");
    feature->initialise(seed);
  }

  SwinOptions options_;
  std::vector<int64_t> heads_;
  int64_t made_blocks_ = 0;
  std::shared_ptr<PatchEmbed> patch_embed;
  std::vector<Stage> stages;
  LayerNorm norm{nullptr};
  std::vector<Linear> condition_scales, condition_shifts;
};

template <int64_t kDim, int64_t kThird, int64_t kHeads>
class SwinOf : public Swin {
 public:
  SwinOf(const SwinOptions& options, const BackboneContext& context)
      : Swin(options, context,
             {kDim, {2, 2, kThird, 2}, {kHeads, 2 * kHeads, 4 * kHeads, 8 * kHeads}}) {}
};

template <int64_t kDim, int64_t kThird, int64_t kHeads>
bool add(const char* name, const char* meaning) {
  return Backbones::get().add<SwinOf<kDim, kThird, kHeads>, SwinOptions>(name, meaning);
}
[[maybe_unused]] const bool registered =
    add<96, 6, 3>(
        "swin_tiny_patch4_window7_224",
        "Swin-T (timm), 27.5 M parameters, feature of 768, maps of 96 ... 768 channels") &&
    add<96, 18, 3>("swin_small_patch4_window7_224",
                   "Swin-S (timm), 48.8 M parameters, feature of 768, maps of 96 ... 768") &&
    add<128, 18, 4>("swin_base_patch4_window7_224",
                    "Swin-B (timm), 86.7 M parameters, feature of 1024, maps of 128 ... 1024");

}  // namespace
}  // namespace facetrain
