#include "export/exporter.h"

#include "core/durable_file.h"

namespace facetrain {
namespace fs = std::filesystem;

void write_export(const Config& section, Backbone& network, const ExportInfo& info,
                  const fs::path& file) {
  const auto exporter = Exporters::get().create(section);
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

std::vector<std::pair<std::string, torch::Tensor>> public_tensors(const Backbone& network) {
  std::vector<std::pair<std::string, torch::Tensor>> tensors;
  for (const auto& item : network.named_parameters())
    tensors.emplace_back(item.key(), item.value().detach());
  for (const auto& item : network.named_buffers())
    tensors.emplace_back(item.key(), item.value().detach());
  return tensors;
}

}  // namespace facetrain
