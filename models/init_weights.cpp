#include "models/init_weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numbers>

#include "core/check.h"
#include "core/log.h"
#include "core/random.h"
#include "core/weights_file.h"
#include "models/translated_weights.h"

namespace facetrain {
namespace {

// Layers that others train on top of a trunk and save with it.
constexpr std::array kHeads{"head.", "classifier.", "decoder_", "mask_token"};

using State = std::map<std::string, torch::Tensor>;

// Fills a parameter of any type, device and layout from `fill(key, values, count)`, in the logical
// order of elements.
template <class Fill>
void init_with(torch::Tensor& parameter, uint64_t seed, const std::string& name, Fill fill) {
  const torch::NoGradGuard no_grad;
  const auto values = torch::empty(parameter.sizes(), torch::kFloat);
  fill(random_key(seed, name_key(name)), values.mutable_data_ptr<float>(), values.numel());
  parameter.copy_(values);
}

// Box and Muller give two values a pair of words.
std::array<double, 2> two_normals(Random& random, double deviation) {
  const double radius = deviation * std::sqrt(-2 * std::log(1 - random.uniform()));
  const double angle = 2 * std::numbers::pi * random.uniform();
  return {radius * std::cos(angle), radius * std::sin(angle)};
}

// The prefix below which most names of the network are found in the file. Every beginning of a
// name that ends at a dot is tried.
std::string find_prefix(const WeightsFile& file, const State& state) {
  std::map<std::string, int64_t> counts;
  for (const auto& [name, info] : file.tensors())
    for (size_t at = 0;; ++at) {
      if (state.contains(name.substr(at))) ++counts[name.substr(0, at)];
      at = name.find('.', at);
      if (at == std::string::npos) break;
    }
  std::string best;
  int64_t most = 0;
  for (const auto& [prefix, count] : counts)
    if (count > most || (count == most && prefix.size() < best.size())) {
      best = prefix;
      most = count;
    }
  return best;
}

// ResNet's classifier is `fc.`, which in other networks is a layer of their own.
bool is_head(const std::string& name, const State& state) {
  const auto below = [](const std::string& prefix) {
    return [prefix](const auto& entry) { return entry.first.starts_with(prefix); };
  };
  return std::any_of(kHeads.begin(), kHeads.end(),
                     [&](const char* head) { return name.starts_with(head); }) ||
         (name.starts_with("fc.") && std::none_of(state.begin(), state.end(), below("fc.")));
}

std::string shorten(const std::vector<std::string>& names, size_t most = 8) {
  const std::vector<std::string> shown(names.begin(), names.begin() + std::min(most, names.size()));
  return fmt::format("{}{}", fmt::join(shown, ", "),
                     names.size() > most ? fmt::format(" and {} more", names.size() - most) : "");
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

State named_state(torch::nn::Module& network) {
  State state;
  for (const auto& item : network.named_parameters()) state.emplace(item.key(), item.value());
  for (const auto& item : network.named_buffers()) state.emplace(item.key(), item.value());
  return state;
}

// What can be copied; what cannot goes into the report.
State match(const WeightsFile& file, const State& state, const WeightFitter* fitter,
            LoadReport& report) {
  State copies;
  for (const auto& [name, tensor] : state) {
    const auto found = file.tensors().find(report.prefix + name);
    if (found == file.tensors().end()) {
      if (!name.ends_with("num_batches_tracked")) report.missing.push_back(name);
    } else if (tensor.sizes() == found->second.shape ||
               (fitter && fitter->fits(name, found->second.shape))) {
      copies.emplace(name, tensor);
    } else {
      report.mismatched.push_back(fmt::format("{}: network [{}], file [{}]", name,
                                              fmt::join(tensor.sizes(), ", "),
                                              fmt::join(found->second.shape, ", ")));
    }
  }
  return copies;
}

// The file's tensors that the network does not have.
void list_others(const WeightsFile& file, const State& state, LoadReport& report) {
  for (const auto& [stored, info] : file.tensors()) {
    const bool inside = stored.starts_with(report.prefix);
    const std::string name = inside ? stored.substr(report.prefix.size()) : stored;
    if (!inside)
      report.ignored.push_back(stored);
    else if (!state.contains(name))
      (is_head(name, state) ? report.ignored : report.unexpected).push_back(stored);
  }
}

// The parameter that sees the image's colours: [out, 3, k, k].
std::string first_convolution(torch::nn::Module& network) {
  for (const auto& item : network.named_parameters())
    if (item.value().dim() == 4 && item.value().size(1) == 3) return item.key();
  FT_FAIL("this network has no convolution of three colours that could be turned from BGR to RGB");
}

// Reads all before it changes any: a damaged tensor leaves the network as it was.
void copy_weights(const WeightsFile& file, const std::string& prefix, const State& copies,
                  const WeightFitter* fitter, const std::string& turned) {
  State read;
  for (const auto& [name, tensor] : copies) {
    auto values = file.read(prefix + name);
    if (values.sizes() != tensor.sizes()) values = fitter->fit(name, values);
    read.emplace(name, name == turned ? values.flip(1) : values);
  }
  const torch::NoGradGuard no_grad;
  for (const auto& [name, tensor] : copies) torch::Tensor(tensor).copy_(read.at(name));
}

}  // namespace

void init_normal(torch::Tensor parameter, uint64_t seed, const std::string& name, double mean,
                 double deviation) {
  init_with(parameter, seed, name, [&](uint64_t key, float* values, int64_t count) {
    Random random(key);
    for (int64_t i = 0; i < count; i += 2) {
      const auto [first, second] = two_normals(random, deviation);
      values[i] = static_cast<float>(mean + first);
      if (i + 1 < count) values[i + 1] = static_cast<float>(mean + second);
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

void init_trunc_normal(torch::Tensor parameter, uint64_t seed, const std::string& name,
                       double deviation) {
  init_with(parameter, seed, name, [&](uint64_t key, float* values, int64_t count) {
    Random random(key);
    for (int64_t i = 0; i < count;)
      for (const double value : two_normals(random, deviation))
        if (std::abs(value) <= 2 && i < count) values[i++] = static_cast<float>(value);
  });
}

void init_xavier_uniform(torch::Tensor parameter, uint64_t seed, const std::string& name) {
  const double fans = static_cast<double>(parameter.size(0) + parameter[0].numel());
  const double bound = std::sqrt(6 / fans);
  init_uniform(std::move(parameter), seed, name, -bound, bound);
}

void init_kaiming_fan_out(const torch::nn::Module& network, uint64_t seed) {
  for (const auto& item : network.named_parameters()) {
    const auto& p = item.value();
    if (p.dim() < 2) continue;
    const double fan_out = static_cast<double>(p.size(0) * p[0][0].numel());
    init_normal(p, seed, item.key(), 0, std::sqrt(2 / fan_out));
  }
}

LoadReport load_weights(torch::nn::Module& network, const std::filesystem::path& path, bool strict,
                        ColorOrder order) {
  auto file = open_weights_file(path);
  if (const auto* translator = dynamic_cast<const WeightTranslator*>(&network))
    file = translator->translated(std::move(file));
  const auto state = named_state(network);
  LoadReport report;
  report.file = path.string();
  report.prefix = find_prefix(*file, state);
  const auto* fitter = dynamic_cast<const WeightFitter*>(&network);
  const auto copies = match(*file, state, fitter, report);
  list_others(*file, state, report);
  const std::string found = faults(report);
  FT_CHECK(!copies.empty(), "{}: no tensor of this file belongs to the network{}", path.string(),
           found);
  FT_CHECK(!strict || found.empty(),
           "{}: these weights do not fit the network{}; choose the network they were made with{}, "
           "or set model.strict=false to load what fits and leave the rest random",
           path.string(), found,
           report.mismatched.empty() ? ""
                                     : " and its data.size (another data.size than they were "
                                       "trained with gives a last layer of another shape)");
  const std::string turned = order == ColorOrder::kBgr ? first_convolution(network) : "";
  copy_weights(*file, report.prefix, copies, fitter, turned);
  report.turned = copies.contains(turned);
  report.loaded = static_cast<int64_t>(copies.size());
  return report;
}

void report(const LoadReport& report) {
  std::string text = faults(report);
  if (!report.ignored.empty())
    text += fmt::format("; {} ignored: {}", report.ignored.size(), shorten(report.ignored, 3));
  if (report.turned) text += "; turned from BGR to RGB";
  log_info("{}: {} tensors loaded{}{}", report.file, report.loaded,
           report.prefix.empty() ? "" : fmt::format(" from below '{}'", report.prefix), text);
}

}  // namespace facetrain
