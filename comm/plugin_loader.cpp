#include "comm/plugin_loader.h"

#include <dlfcn.h>

#include <array>
#include <filesystem>

#include "comm/build_id.h"
#include "core/check.h"

namespace facetrain {
namespace {

constexpr const char* kFile = "libfacetrain_cuda.so";

std::filesystem::path find_plugin() {
  const std::filesystem::path library = library_folder();
  const auto program = std::filesystem::canonical("/proc/self/exe").parent_path();
  for (const auto& folder : {library, program, program.parent_path()}) {
    if (std::filesystem::exists(folder / kFile)) return folder / kFile;
  }
  FT_FAIL(
      "device: cuda wants the CUDA plugin {}, which is neither in {} nor in {}. Build on a machine "
      "with the CUDA 13 "
      "toolkit (launch/build.sh with FACETRAIN_CUDA=ON), or use device: cpu",
      kFile, library.string(), program.string());
}

const CudaPlugin& load() {
  const auto path = find_plugin();
  // Asked first: the plugin brings a gigabyte of libraries.
  void* driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  FT_CHECK(
      driver != nullptr,
      "device: cuda wants a GPU, but this machine has no NVIDIA driver (libcuda.so.1 cannot be "
      "loaded). Run where nvidia-smi lists a GPU, or use device: cpu");
  void* plugin = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  FT_CHECK(plugin != nullptr, "cannot load the CUDA plugin {}: {}", path.string(), dlerror());
  const auto entry = reinterpret_cast<CudaPluginEntry>(dlsym(plugin, kCudaPluginSymbol));
  const CudaPlugin* table = entry == nullptr ? nullptr : entry(FACETRAIN_VERSION);
  FT_CHECK(table != nullptr,
           "the CUDA plugin {} is of another build than this program ({}); build both together",
           path.string(), FACETRAIN_VERSION);
  std::string reason;
  FT_CHECK(table->device_count(reason) > 0,
           "device: cuda wants a GPU, found none: {}. Look at nvidia-smi and at "
           "CUDA_VISIBLE_DEVICES, or use device: cpu",
           reason);
  return *table;
}

}  // namespace

const CudaPlugin& cuda_plugin() {
  static const CudaPlugin& plugin = load();
  return plugin;
}

}  // namespace facetrain
