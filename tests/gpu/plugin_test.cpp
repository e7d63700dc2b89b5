// The CUDA plugin loads with all its symbols, also where there is no GPU: an error of linking shows
// everywhere.
#include <dlfcn.h>

#include <filesystem>

#include "comm/cuda_plugin.h"
#include "tests/gpu/gpu.h"

namespace facetrain {
namespace {

TEST(Plugin, LoadsWithAllItsSymbolsAndCountsTheGpus) {
  const auto path = std::filesystem::path(FACETRAIN_BINARY_DIR) / "libfacetrain_cuda.so";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "built without CUDA: no " << path;
  void* plugin = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(plugin, nullptr) << dlerror();
  const auto entry = reinterpret_cast<CudaPluginEntry>(dlsym(plugin, kCudaPluginSymbol));
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry("0.0.0"), nullptr);  // of another build
  const CudaPlugin* table = entry(FACETRAIN_VERSION);
  ASSERT_NE(table, nullptr);
  std::string reason;
  EXPECT_EQ(table->device_count(reason), gpu::count());
  EXPECT_EQ(reason.empty(), gpu::count() > 0) << reason;
}

}  // namespace
}  // namespace facetrain
