#include "models/init_weights.h"

#include <cmath>
#include <map>
#include <numbers>
#include <set>

#include "core/check.h"
#include "core/log.h"
#include "core/random.h"
#include "core/safetensors.h"

namespace facetrain {
namespace {

constexpr const char* kPrefix = "backbone.";

// Fills a parameter of any type, device and layout from `fill(key, values, count)`, in the logical
// order of elements.
template <class Fill>
void init_with(torch::Tensor& parameter, uint64_t seed, const std::string& name, Fill fill) {
  const torch::NoGradGuard no_grad;
  const auto values = torch::empty(parameter.sizes(), torch::kFloat);
  fill(random_key(seed, name_key(name)), values.mutable_data_ptr<float>(), values.numel());
  parameter.copy_(values);
}

// The tensors of the file by the name that the network knows them under.
std::map<std::string, std::string> public_names(const SafetensorsFile& file) {
  std::map<std::string, std::string> plain, prefixed;
  for (const auto& [name, info] : file.tensors()) {
    plain.emplace(name, name);
    if (name.starts_with(kPrefix)) prefixed.emplace(name.substr(std::string(kPrefix).size()), name);
  }
  return prefixed.empty() ? plain : prefixed;
}

std::string shorten(const std::vector<std::string>& names) {
  constexpr size_t kShown = 8;
  const std::vector<std::string> shown(names.begin(),
                                       names.begin() + std::min(kShown, names.size()));
  return fmt::format(
      "{}{}", fmt::join(shown, ", "),
      names.size() > kShown ? fmt::format(" and {} more", names.size() - kShown) : "");
}

std::string faults(const LoadReport& report) {
  std::string text;
  if (!report.missing.empty())
    text += fmt::format("; {} missing: {}", report.missing.size(), shorten(report.missing));
  if (!report.unexpected.empty())
    text +=
        fmt::format("; {} unexpected: {}", report.unexpected.size(), shorten(report.unexpected));
  if (!report.mismatched.empty())
    text += fmt::format("; {} of another shape: {}", report.mismatched.size(),
                        shorten(report.mismatched));
  return text;
}

std::map<std::string, torch::Tensor> named_state(torch::nn::Module& network) {
  std::map<std::string, torch::Tensor> state;
  for (const auto& item : network.named_parameters()) state.emplace(item.key(), item.value());
  for (const auto& item : network.named_buffers()) state.emplace(item.key(), item.value());
  return state;
}

}  // namespace

void init_normal(torch::Tensor parameter, uint64_t seed, const std::string& name, double mean,
                 double deviation) {
  init_with(parameter, seed, name, [&](uint64_t key, float* values, int64_t count) {
    Random random(key);
    for (int64_t i = 0; i < count; i += 2) {  // Box and Muller give two values a pair of words
      const double radius = deviation * std::sqrt(-2 * std::log(1 - random.uniform()));
      const double angle = 2 * std::numbers::pi * random.uniform();
      values[i] = static_cast<float>(mean + radius * std::cos(angle));
      if (i + 1 < count) values[i + 1] = static_cast<float>(mean + radius * std::sin(angle));
    }
  });
}

void init_uniform(torch::Tensor parameter, uint64_t seed, const std::string& name, double low,
                  double high) {
  init_with(parameter, seed, name, [&](uint64_t key, float* values, int64_t count) {
    Random random(key);
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<float>(random.uniform(low, high));
  });
}

LoadReport load_weights(torch::nn::Module& network, const std::filesystem::path& path,
                        bool strict) {
  const SafetensorsFile file(path);
  const auto names = public_names(file);
  const auto state = named_state(network);
  LoadReport report;
  report.file = path.string();
  std::vector<std::pair<torch::Tensor, std::string>> copies;
  for (const auto& [name, tensor] : state) {
    const auto found = names.find(name);
    if (found == names.end()) {
      if (!name.ends_with("num_batches_tracked")) report.missing.push_back(name);
      continue;
    }
    const auto& shape = file.tensors().at(found->second).shape;
    if (tensor.sizes() == shape)
      copies.emplace_back(tensor, found->second);
    else
      report.mismatched.push_back(fmt::format("{}: network [{}], file [{}]", name,
                                              fmt::join(tensor.sizes(), ", "),
                                              fmt::join(shape, ", ")));
  }
  for (const auto& [name, stored] : names)
    if (!state.contains(name)) report.unexpected.push_back(stored);
  FT_CHECK(!copies.empty(), "{}: no tensor of this file belongs to the network{}", path.string(),
           faults(report));
  const std::string found = faults(report);
  FT_CHECK(!strict || found.empty(),
           "{}: these weights do not fit the network{}; choose the network they were made with, or "
           "set model.strict=false to load what fits",
           path.string(), found);
  const torch::NoGradGuard no_grad;
  for (auto& [tensor, stored] : copies) tensor.copy_(file.read(stored));
  report.loaded = static_cast<int64_t>(copies.size());
  return report;
}

void report(const LoadReport& report) {
  log_info("{}: {} tensors loaded{}", report.file, report.loaded, faults(report));
}

}  // namespace facetrain
