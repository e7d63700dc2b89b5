#include "models/vit_weights.h"

#include <regex>

#include "models/translated_weights.h"

namespace facetrain {
namespace {

using Renames = std::vector<std::pair<std::regex, std::string>>;

std::string renamed(std::string name, const Renames& renames) {
  for (const auto& [pattern, replacement] : renames)
    name = std::regex_replace(name, pattern, replacement);
  return name;
}

bool any_name_matches(const WeightsFile& file, const std::regex& pattern) {
  for (const auto& [name, info] : file.tensors())
    if (std::regex_search(name, pattern)) return true;
  return false;
}

const Renames& clip_names() {
  static const Renames all{{std::regex(R"(^class_embedding$)"), "cls_token"},
                           {std::regex(R"(^positional_embedding$)"), "pos_embed"},
                           {std::regex(R"(^conv1\.)"), "patch_embed.proj."},
                           {std::regex(R"(^ln_pre\.)"), "norm_pre."},
                           {std::regex(R"(^ln_post\.)"), "norm."},
                           {std::regex(R"(^transformer\.resblocks\.)"), "blocks."},
                           {std::regex(R"(\.ln_(\d)\.)"), ".norm$1."},
                           {std::regex(R"(\.attn\.in_proj_)"), ".attn.qkv."},
                           {std::regex(R"(\.attn\.out_proj\.)"), ".attn.proj."},
                           {std::regex(R"(\.mlp\.c_fc\.)"), ".mlp.fc1."},
                           {std::regex(R"(\.mlp\.c_proj\.)"), ".mlp.fc2."}};
  return all;
}

}  // namespace

std::unique_ptr<WeightsFile> translate_vit(std::unique_ptr<WeightsFile> file) {
  static const std::regex tower(R"(^(?:.*\.)?visual\.(.*)$)");
  static const std::regex clip_block(R"(^(?:.*\.)?visual\.transformer\.resblocks\.\d)");
  static const std::regex chunked_block(R"((^|\.)blocks\.\d+\.(\d+)\.)");
  const bool clip = any_name_matches(*file, clip_block);
  if (!clip && !any_name_matches(*file, chunked_block)) return file;
  std::map<std::string, TranslatedWeights::Source> sources;
  for (const auto& [stored, info] : file->tensors()) {
    std::smatch inside;
    if (!clip)
      sources[std::regex_replace(stored, chunked_block, "$1blocks.$2.")] = {stored, {}};
    else if (std::regex_match(stored, inside, tower) && inside[1] != "proj")
      sources[renamed(inside[1], clip_names())] = {stored, {}};
  }
  return std::make_unique<TranslatedWeights>(std::move(file), std::move(sources));
}

}  // namespace facetrain
