#include "core/weights_file.h"

#include <algorithm>

#include "core/binary_file.h"
#include "core/check.h"
#include "core/pth_file.h"
#include "core/safetensors.h"
#include "core/zip_reader.h"

namespace facetrain {
namespace {

class SafetensorsWeights : public WeightsFile {
 public:
  explicit SafetensorsWeights(const std::filesystem::path& file) : file_(file) {
    for (const auto& [name, info] : file_.tensors()) tensors_[name] = {info.dtype, info.shape};
  }
  at::Tensor read(const std::string& name) const override { return file_.read(name); }

 private:
  SafetensorsFile file_;
};

bool is_torchscript(const std::filesystem::path& file) {
  const ZipReader archive(file);
  return std::any_of(archive.entries().begin(), archive.entries().end(), [](const auto& entry) {
    return entry.first.ends_with("/constants.pkl") ||
           entry.first.find("/code/") != std::string::npos;
  });
}

}  // namespace

WeightsFormat weights_format(const std::filesystem::path& path) {
  if (path.extension() == ".safetensors") return WeightsFormat::kSafetensors;
  const BinaryFile file(path, "file of weights");
  const std::string head = file.read(std::min<uint64_t>(file.size(), 16), 0, "its first bytes");
  if (head.starts_with("PK\x03\x04"))
    return is_torchscript(path) ? WeightsFormat::kTorchScript : WeightsFormat::kPth;
  if (PthFile::is_legacy(head)) return WeightsFormat::kPth;
  if (head.size() > 8 && head[8] == '{') return WeightsFormat::kSafetensors;
  return WeightsFormat::kUnknown;
}

std::unique_ptr<WeightsFile> open_weights_file(const std::filesystem::path& file) {
  switch (weights_format(file)) {
    case WeightsFormat::kSafetensors:
      return std::make_unique<SafetensorsWeights>(file);
    case WeightsFormat::kPth:
      return std::make_unique<PthFile>(file);
    case WeightsFormat::kTorchScript:
      FT_FAIL(
          "{}: wanted a table of weights, found a TorchScript module, which is a program; "
          "`facetrain "
          "embed` and `eval` run it; to start from its weights save "
          "torch.jit.load(...).state_dict()",
          file.string());
    case WeightsFormat::kUnknown:
      break;
  }
  FT_FAIL(
      "{}: wanted weights (.safetensors, or .pth as torch.save writes it), found neither; it may "
      "be "
      "truncated, of another program, or of PyTorch before 0.4",
      file.string());
}

}  // namespace facetrain
