#include "models/translated_weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <regex>

#include "core/check.h"

namespace facetrain {
namespace {

using at::Tensor;

bool any_name_has(const WeightsFile& file, const std::string& part) {
  return std::any_of(file.tensors().begin(), file.tensors().end(), [&](const auto& entry) {
    return entry.first.find(part) != std::string::npos;
  });
}

using Renames = std::vector<std::pair<std::regex, std::string>>;

std::string renamed(std::string name, const Renames& renames) {
  for (const auto& [pattern, replacement] : renames)
    name = std::regex_replace(name, pattern, replacement);
  return name;
}

// "layers.0.downsample." of a layout with the downsampling last is "layers.1.downsample." of ours.
std::string one_stage_on(const std::string& name) {
  static const std::regex step(R"((^|\.)layers\.(\d+)\.downsample\.)");
  std::smatch found;
  if (!std::regex_search(name, found, step)) return name;
  const int stage = std::stoi(found[2]) + 1;
  return fmt::format("{}{}layers.{}.downsample.{}", found.prefix().str(), found[1].str(), stage,
                     found.suffix().str());
}

// The last axis of a merging has, for each channel, the four neighbours by rows (as im2col has
// them); ours has, for each neighbour by columns, the channels.
Tensor neighbours_first(const Tensor& x) {
  const int64_t channels = x.size(-1) / 4;
  return x.reshape({-1, channels, 2, 2}).permute({0, 3, 2, 1}).reshape(x.sizes());
}

Renames openmmlab() {
  return {{std::regex(R"(patch_embed\.projection\.)"), "patch_embed.proj."},
          {std::regex(R"((^|\.)stages\.)"), "$1layers."},
          {std::regex(R"(\.attn\.w_msa\.)"), ".attn."},
          {std::regex(R"(\.ffn\.layers\.0\.0\.)"), ".mlp.fc1."},
          {std::regex(R"(\.ffn\.layers\.1\.)"), ".mlp.fc2."}};
}

}  // namespace

TranslatedWeights::TranslatedWeights(std::unique_ptr<WeightsFile> file,
                                     std::map<std::string, Source> sources)
    : file_(std::move(file)), sources_(std::move(sources)) {
  for (const auto& [name, source] : sources_)
    tensors_.emplace(name, file_->tensors().at(source.stored));
}

Tensor TranslatedWeights::read(const std::string& name) const {
  const auto found = sources_.find(name);
  FT_CHECK(found != sources_.end(), "no tensor of this file stands for '{}'", name);
  const auto values = file_->read(found->second.stored);
  return found->second.rearranged ? found->second.rearranged(values).contiguous() : values;
}

std::unique_ptr<WeightsFile> translate_swin(std::unique_ptr<WeightsFile> file, int64_t stages) {
  static const std::regex derived(R"((relative_position_index|attn_mask)$)");
  static const std::regex stage_norm(R"((^|\.)norm(\d)\.(weight|bias)$)");
  const bool openmm = any_name_has(*file, ".attn.w_msa.");
  const bool step_last = openmm || any_name_has(*file, "layers.0.downsample.");
  const Renames renames = openmm ? openmmlab() : Renames{};
  std::map<std::string, TranslatedWeights::Source> sources;
  for (const auto& [stored, info] : file->tensors()) {
    if (std::regex_search(stored, derived)) continue;
    std::string name = renamed(stored, renames);
    std::smatch norm;
    if (openmm && name.find("blocks.") == name.npos && std::regex_search(name, norm, stage_norm)) {
      if (std::stoi(norm[2]) + 1 != stages) continue;
      name = std::regex_replace(name, stage_norm, "$1norm.$3");
    }
    const bool merging = openmm && name.find(".downsample.") != name.npos;
    if (step_last) name = one_stage_on(name);
    sources[name] = {stored, merging ? neighbours_first : nullptr};
  }
  return std::make_unique<TranslatedWeights>(std::move(file), std::move(sources));
}

std::unique_ptr<WeightsFile> translate_convnext(std::unique_ptr<WeightsFile> file) {
  if (!any_name_has(*file, "downsample_layers.0.")) return file;
  static const Renames renames{
      {std::regex(R"((^|\.)downsample_layers\.0\.)"), "$1stem."},
      {std::regex(R"((^|\.)stages\.(\d+)\.(\d+)\.)"), "$1stages.$2.blocks.$3."},
      {std::regex(R"((^|\.)downsample_layers\.(\d+)\.)"), "$1stages.$2.downsample."},
      {std::regex(R"(\.dwconv\.)"), ".conv_dw."},
      {std::regex(R"(\.pwconv([12])\.)"), ".mlp.fc$1."}};
  static const std::regex final_norm(R"((^|\.)norm\.(weight|bias)$)");
  std::map<std::string, TranslatedWeights::Source> sources;
  for (const auto& [stored, info] : file->tensors()) {
    std::string name = renamed(stored, renames);
    if (name.find("blocks.") == std::string::npos)
      name = std::regex_replace(name, final_norm, "$1head.norm.$2");
    sources[name] = {stored, nullptr};
  }
  return std::make_unique<TranslatedWeights>(std::move(file), std::move(sources));
}

}  // namespace facetrain
