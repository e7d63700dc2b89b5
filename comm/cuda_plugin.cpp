// The plugin's one symbol and its table: see cuda_plugin.h.
#include "comm/cuda_plugin.h"

#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

#include <cstring>

#include "comm/nccl_comm.h"
#include "core/check.h"

namespace facetrain {
namespace {

void check_cuda(cudaError_t code, const char* what) {
  FT_CHECK(code == cudaSuccess, "{} failed: {}", what, cudaGetErrorString(code));
}
#define FT_CUDA(call) check_cuda(call, #call)

int device_count(std::string& error) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess && count > 0) return count;
  error = code == cudaSuccess ? "the driver lists none" : cudaGetErrorString(code);
  return 0;
}

cudaDeviceProp properties(int device) {
  cudaDeviceProp found = {};
  FT_CUDA(cudaGetDeviceProperties(&found, device));
  return found;
}

std::string describe_device(int device) {
  const cudaDeviceProp found = properties(device);
  return fmt::format("{}, {:.0f} GB, compute capability {}.{}", found.name,
                     static_cast<double>(found.totalGlobalMem) / 1e9, found.major, found.minor);
}

std::string device_identity(int device) {
  const cudaDeviceProp found = properties(device);
  std::string text;
  for (const char byte : found.uuid.bytes)
    text += fmt::format("{:02x}", static_cast<unsigned char>(byte));
  return text;
}

void set_device(int device) { c10::cuda::set_device(static_cast<c10::DeviceIndex>(device)); }

void synchronize(int device) {
  const c10::cuda::CUDAGuard guard(static_cast<c10::DeviceIndex>(device));
  c10::cuda::device_synchronize();
}

int64_t peak_memory(int device) {
  using namespace c10::CachingAllocator;
  const auto stats =
      c10::cuda::CUDACachingAllocator::getDeviceStats(static_cast<c10::DeviceIndex>(device));
  return stats.allocated_bytes[static_cast<size_t>(StatType::AGGREGATE)].peak;
}

void reset_peak_memory(int device) {
  c10::cuda::CUDACachingAllocator::resetPeakStats(static_cast<c10::DeviceIndex>(device));
}

std::unique_ptr<Communicator> make_nccl_comm(Communicator& host, int device) {
  return std::make_unique<NcclComm>(host, device);
}

constexpr CudaPlugin kTable = {
    .device_count = device_count,
    .describe_device = describe_device,
    .device_identity = device_identity,
    .set_device = set_device,
    .synchronize = synchronize,
    .peak_memory = peak_memory,
    .reset_peak_memory = reset_peak_memory,
    .make_nccl_comm = make_nccl_comm,
};

}  // namespace
}  // namespace facetrain

extern "C" __attribute__((visibility("default"))) const facetrain::CudaPlugin*
facetrain_cuda_plugin(const char* version) {
  return std::strcmp(version, FACETRAIN_VERSION) == 0 ? &facetrain::kTable : nullptr;
}
