#include "export/exporter.h"

#include <algorithm>

#include "core/durable_file.h"

namespace facetrain {
namespace fs = std::filesystem;

void check_extension(const Config& section, const fs::path& file) {
  const auto endings = Exporters::get().create(section)->extensions();
  const std::string ending = file.extension().string();
  if (std::find(endings.begin(), endings.end(), ending) != endings.end()) return;
  std::string fitting;
  for (const auto& name : Exporters::get().names()) {
    const auto section_of_name = Config::parse("{name: " + name + "}");
    for (const auto& other : Exporters::get().create(section_of_name)->extensions())
      if (other == ending) fitting = name;
  }
  FT_FAIL("{}: a file of format {} is called *{}{}", file.string(), section.name(),
          fmt::join(endings, " or *"),
          fitting.empty() ? "" : fmt::format("; for *{} the format is {}", ending, fitting));
}

namespace {

// A file of such weights would be written, read back and found equal.
void check_finite(const Backbone& network, const std::string& origin) {
  const auto check = [&](const auto& tensors) {
    for (const auto& item : tensors)
      FT_CHECK(
          !item.value().is_floating_point() || item.value().isfinite().all().template item<bool>(),
          "{}: its tensor '{}' holds NaN or infinity, so nothing was written; export an "
          "earlier checkpoint",
          origin, item.key());
  };
  check(network.named_parameters());
  check(network.named_buffers());
}

}  // namespace

void write_export(const Config& section, Backbone& network, const ExportInfo& info,
                  const fs::path& file) {
  const auto exporter = Exporters::get().create(section);
  FT_CHECK(!network.parameters().empty(),
           "{}: a TorchScript file has no weights to export again: give the run, the checkpoint or "
           "the .safetensors file that it was made from (its extra file facetrain.origin names it)",
           info.origin);
  check_finite(network, info.origin);
  check_writable(file);
  fs::path temporary = file;
  temporary += ".partial";
  try {
    exporter->write(network, info, temporary);
    exporter->verify(network, info, temporary);
    rename_durably(temporary, file);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
}

bool same_bits(const torch::Tensor& a, const torch::Tensor& b) {
  const auto bytes = [](const torch::Tensor& t) {
    return t.cpu().contiguous().flatten().view(torch::kByte);
  };
  return a.scalar_type() == b.scalar_type() && a.sizes() == b.sizes() &&
         torch::equal(bytes(a), bytes(b));
}

std::vector<std::pair<std::string, torch::Tensor>> public_tensors(const Backbone& network) {
  std::vector<std::pair<std::string, torch::Tensor>> tensors;
  for (const auto& item : network.named_parameters())
    tensors.emplace_back(item.key(), item.value().detach());
  for (const auto& item : network.named_buffers())
    tensors.emplace_back(item.key(), item.value().detach());
  return tensors;
}

}  // namespace facetrain
