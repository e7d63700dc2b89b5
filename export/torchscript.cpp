#include "export/torchscript.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/serialization/import.h>

#include <charconv>
#include <fstream>

#include "core/check.h"
#include "export/trace.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

CommonModelOptions options_of(int64_t dim) {
  CommonModelOptions options;
  options.embedding = dim;
  return options;
}

class ScriptNetwork : public Backbone {
 public:
  ScriptNetwork(torch::jit::Module module, int64_t image_size, int64_t dim)
      : Backbone(options_of(dim)), module_(std::move(module)), image_size_(image_size) {}

  Features forward(const torch::Tensor& images) override {
    check_images(images);
    return {.embedding = run_script(module_, images), .tokens = {}, .pyramid = {}};
  }
  int64_t image_size() const override { return image_size_; }

 private:
  torch::jit::Module module_;
  int64_t image_size_;
};

torch::jit::Module load(const fs::path& file, c10::Device device) {
  try {
    torch::jit::Module module = torch::jit::load(file.string(), device);
    module.eval();
    return module;
  } catch (const std::exception& error) {
    FT_FAIL("{}: cannot load this TorchScript file: {}", file.string(), reason_of(error));
  }
}

}  // namespace

ScriptFile read_script_info(const fs::path& file) {
  caffe2::serialize::PyTorchStreamReader archive(file.string());
  const auto text = [&archive](const std::string& name) -> std::string {
    const std::string record = "extra/" + name;
    if (!archive.hasRecord(record)) return "";
    const auto [bytes, size] = archive.getRecord(record);
    return {static_cast<const char*>(bytes.get()), size};
  };
  ScriptFile info{text(kScriptConfig), text(kScriptOrigin), 0};
  const std::string size = text(kScriptSize);
  const auto [end, error] =
      std::from_chars(size.data(), size.data() + size.size(), info.image_size);
  FT_CHECK(size.empty() || (error == std::errc() && end == size.data() + size.size() &&
                            info.image_size > 0 && info.image_size <= 4096),
           "{}: {} is '{}', wanted pixels: this file was changed after it was written",
           file.string(), kScriptSize, size);
  return info;
}

std::shared_ptr<Backbone> load_script(const fs::path& file, int64_t image_size,
                                      c10::Device device) {
  torch::jit::Module module = load(file, device);
  const torch::NoGradGuard no_grad;
  torch::Tensor embedding;
  try {
    embedding = run_script(module, torch::zeros({1, 3, image_size, image_size}, device));
  } catch (const std::exception& error) {
    FT_FAIL(
        "{0}: this TorchScript network does not take one image [1, 3, {1}, {1}]; is data.size "
        "right? {2}",
        file.string(), image_size, reason_of(error));
  }
  FT_CHECK(embedding.dim() == 2 && embedding.size(0) == 1,
           "{}: wanted an embedding [1, D] for one image, found [{}]", file.string(),
           fmt::join(embedding.sizes(), ", "));
  auto network = std::make_shared<ScriptNetwork>(std::move(module), image_size, embedding.size(1));
  network->eval();
  return network;
}

}  // namespace facetrain
