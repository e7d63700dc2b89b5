#include "trainer/model_loader.h"

#include <array>
#include <filesystem>

#include "core/check.h"
#include "core/log.h"
#include "core/safetensors.h"
#include "core/torch.h"
#include "core/weights_file.h"
#include "export/torchscript.h"
#include "models/init_weights.h"
#include "trainer/checkpoint.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

constexpr const char* kExportedConfig = "facetrain.config";
constexpr const char* kAverage = "ema.backbone.";
// Sets the keys that speak of model.init back to what they are without one.
const std::array<std::string, 3> kOfInit{"model.init=\"\"", "model.color_order=rgb",
                                         "model.strict=true"};

// Where the weights lie and what they belong to.
struct Origin {
  fs::path weights;
  Config config;
  std::string describe;
  bool foreign = false;  // bare weights, which may be anybody's
};

// The keys that say how to build the network and its input; everything else of a training
// configuration is left out.
struct ModelConfig {
  struct Data {
    int64_t size = 0;
    std::string fit = "error";
    Config normalize;
    void fields(auto& f) {
      f("size", size, range(0, 4096), "pixels of the square network input; 0: the network's own");
      f("fit", fit, one_of("error", "resize", "crop"), "what to do with images of another size");
      f("normalize", normalize, "face | imagenet | {mean: .., deviation: ..}");
    }
  };
  Config model;
  Data data;
  void fields(auto& f) {
    f("model", model, "network");
    f("data", data, "its input");
  }
};

// A network and its input are all that can be set of one that is trained.
void check_keys(std::span<const std::string> overrides) {
  for (const auto& word : overrides) {
    const std::string root = word.substr(0, word.find_first_of(".="));
    const std::string guess = config_detail::nearest(root, {"model", "data"});
    FT_CHECK(root == "model" || root == "data",
             "command line: unknown key '{}'{}; a trained network takes keys of: data, model",
             word.substr(0, word.find('=')),
             root == "device" ? " (the device is an option: --device cuda)"
             : guess.empty()  ? ""
                              : fmt::format(" (did you mean '{}'?)", guess));
  }
}

// A section that has only the named keys of another; values are shared.
ConfigNodePtr select(const ConfigNode& from, const std::vector<std::string>& keys) {
  auto node = std::make_shared<ConfigNode>();
  node->kind = ConfigNode::Kind::kMap;
  node->file = from.file;
  node->line = from.line;
  node->path = from.path;
  for (const std::string& key : keys)
    if (const auto value = from.find(key)) node->map.emplace_back(key, value);
  return node;
}

Config model_part(const Config& whole) {
  ConfigNodePtr root = select(whole.node(), {"model"});
  if (const auto data = whole.node().find("data"))
    root->map.emplace_back("data", select(*data, {"size", "fit", "normalize"}));
  return Config(root);
}

Origin open_checkpoint(const fs::path& folder, const std::string& describe) {
  return {folder / "model.safetensors",
          model_part(Config::parse(read_meta(folder).config, (folder / "meta.yaml").string())),
          describe};
}

Origin open_folder(const fs::path& folder) {
  if (is_checkpoint(folder))
    return open_checkpoint(folder, fmt::format("checkpoint {}", folder.string()));
  if (const auto newest = newest_checkpoint(folder))
    return open_checkpoint(*newest,
                           fmt::format("run {}, {}", folder.string(), newest->filename().string()));
  FT_CHECK(!fs::exists(folder / "config.yaml"),
           "run {} has no checkpoint yet: wait for the first (checkpoint.every), or write one now "
           "with SIGUSR1",
           folder.string());
  FT_FAIL(
      "{} is neither a run nor a checkpoint: wanted a folder with config.yaml and `latest`, or "
      "with meta.yaml",
      folder.string());
}

Origin open_file(const fs::path& file) {
  FT_CHECK(file.extension() != ".onnx",
           "{}: facetrain runs no ONNX files (onnxruntime and TensorRT do): give the run or "
           "checkpoint that it came from (its metadata names it: facetrain.origin), or a "
           ".safetensors or TorchScript export of it",
           file.string());
  const Origin bare{file, Config::parse("{model: {}, data: {}}", file.string()),
                    fmt::format("weights {}", file.string()), true};
  const auto format = weights_format(file);
  FT_CHECK(format != WeightsFormat::kUnknown,
           "{}: wanted a run folder, a checkpoint folder, or a .safetensors, .pth or TorchScript "
           "file, found none of them",
           file.string());
  if (format != WeightsFormat::kSafetensors) {
    open_weights_file(file);  // refuses, before it is asked which network they are of
    return bare;
  }
  const SafetensorsFile tensors(file);
  const auto config = tensors.metadata().find(kExportedConfig);
  if (config != tensors.metadata().end())
    return {file, model_part(Config::parse(config->second, file.string())),
            fmt::format("exported file {}", file.string())};
  return bare;
}

// Replaces weights by their averages; the network's own buffers stay. Returns whether there are
// any.
bool take_averages(Backbone& network, const fs::path& weights) {
  if (weights_format(weights) != WeightsFormat::kSafetensors) return false;
  const SafetensorsFile file(weights);
  bool found = false;
  const torch::NoGradGuard no_grad;
  for (auto& item : network.named_parameters()) {
    const std::string name = kAverage + item.key();
    if (!file.has(name)) continue;  // frozen parameters have no average
    const torch::Tensor average = file.read(name);
    FT_CHECK(average.sizes() == item.value().sizes(), "{}: '{}' is [{}], the network wants [{}]",
             weights.string(), name, fmt::join(average.sizes(), ", "),
             fmt::join(item.value().sizes(), ", "));
    item.value().copy_(average);
    found = true;
  }
  return found;
}

// With model.strict=false a network may be part loaded, part random: no embedding of it means much.
void warn_of_random(const LoadReport& found) {
  std::vector<std::string> names = found.missing;
  for (const auto& fault : found.mismatched) names.push_back(fault.substr(0, fault.find(':')));
  if (names.empty() || log_rank() != 0) return;
  log_warn("{}: of the network, {} not loaded and random: {}", found.file,
           names.size() == 1 ? "1 tensor is" : fmt::format("{} tensors are", names.size()),
           fmt::join(names, ", "));
}

// A TorchScript file: its own graph is the network.
LoadedModel load_script_model(const std::string& file, std::span<const std::string> overrides,
                              c10::Device device) {
  const ScriptFile info = read_script_info(file);
  const bool ours = !info.config.empty();
  Config config = model_part(
      Config::parse(ours ? info.config : "{model: {name: torchscript}, data: {}}", file));
  for (const std::string& word : overrides)
    FT_CHECK(!word.starts_with("model."),
             "{}: a TorchScript file holds its network, so {} would do nothing: leave it out", file,
             word);
  config.override_with(overrides);
  const auto options = config.as<ModelConfig>();
  const int64_t size = options.data.size > 0 ? options.data.size : info.image_size;
  FT_CHECK(size > 0 && (ours || !options.data.normalize.empty()),
           "{}: this TorchScript file, written by another program, does not say what its input is: "
           "add data.size=PIXELS and data.normalize=face (or imagenet, or {{mean: .., deviation: "
           "..}}) to the command line",
           file);
  LoadedModel model;
  model.backbone = load_script(file, size, device);
  model.normalization = Normalization::parse(options.data.normalize);
  model.images.size = size;
  model.images.fit = options.data.fit;
  model.describe = fmt::format("TorchScript file {}", file);
  model.config = config.dump();
  return model;
}

}  // namespace

LoadedModel load_model(const std::string& named, std::span<const std::string> overrides,
                       c10::Device device) {
  check_keys(overrides);
  const std::string what = follow_pointer(named).string();
  FT_CHECK(fs::exists(what),
           "there is no '{}': wanted a run folder, a checkpoint folder, a .safetensors, .pth or "
           "TorchScript file",
           what);
  if (fs::is_regular_file(what) && weights_format(what) == WeightsFormat::kTorchScript)
    return load_script_model(what, overrides, device);
  Origin origin = fs::is_directory(what) ? open_folder(what) : open_file(what);
  // Its weights are being loaded, not those that it started from: what was said of those is over.
  if (!origin.foreign) origin.config.override_with(kOfInit);
  std::vector<std::string> words(overrides.begin(), overrides.end());
  words.push_back(kOfInit[0]);
  origin.config.override_with(words);
  const auto options = origin.config.as<ModelConfig>();
  FT_CHECK(!options.model.name().empty(),
           "{} does not say which network it belongs to: add model.name=... (and "
           "data.normalize=...) to the command line; known: {}",
           what, fmt::join(Backbones::get().names(), ", "));
  LoadedModel model;
  model.describe = origin.describe;
  model.backbone = create_backbone(options.model, {0, options.data.size});
  const auto& common = model.backbone->common();
  const auto found = load_weights(*model.backbone, origin.weights, common.strict, common.colors());
  if (origin.foreign) report(found);
  warn_of_random(found);
  if (take_averages(*model.backbone, origin.weights)) model.describe += ", averaged weights";
  for (auto& parameter : model.backbone->parameters()) parameter.requires_grad_(false);
  model.backbone->to(device);
  model.backbone->eval();
  model.normalization = Normalization::parse(options.data.normalize);
  model.images.size = model.backbone->image_size();
  model.images.fit = options.data.fit;
  origin.config.override_with(kOfInit);
  model.config = origin.config.dump();
  return model;
}

EmbedFunction embed_function(const LoadedModel& model, c10::Device device) {
  return [backbone = model.backbone, normalization = model.normalization,
          device](const at::Tensor& images) {
    const torch::NoGradGuard no_grad;
    return backbone->forward(normalise(images.to(device), normalization, at::kFloat)).embedding;
  };
}

}  // namespace facetrain
