// What libfacetrain_cuda.so offers to the rest: one table of functions behind one C symbol.
//
// The plugin holds all code that links CUDA. World loads it when a run asks for `device: cuda`
// (plugin_loader.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "comm/communicator.h"

namespace facetrain {

struct CudaPlugin {
  // Number of usable GPUs; 0 with the reason in `error`.
  int (*device_count)(std::string& error);
  // "NVIDIA H200, 140 GB, compute capability 9.0".
  std::string (*describe_device)(int device);
  // Tells GPUs apart, also over processes that number them differently: the UUID.
  std::string (*device_identity)(int device);
  // Makes `device` current for the calling thread, in c10 and in the CUDA runtime.
  void (*set_device)(int device);
  // Waits until the device has done all that was issued.
  void (*synchronize)(int device);
  // Largest number of bytes that tensors have held on the device since the last call of
  // reset_peak_memory.
  int64_t (*peak_memory)(int device);
  void (*reset_peak_memory)(int device);
  // **Collective.** Device tensors over NCCL, host tensors over `host`, which must outlive it.
  std::unique_ptr<Communicator> (*make_nccl_comm)(Communicator& host, int device);
};

// The one symbol of the plugin, and the version of the table above: a plugin of another build is
// refused.
inline constexpr const char* kCudaPluginSymbol = "facetrain_cuda_plugin";
using CudaPluginEntry = const CudaPlugin* (*)(const char* version);

}  // namespace facetrain
