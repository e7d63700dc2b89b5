// Peak of CPU tensor memory while an object lives, measured at torch's allocator.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

namespace facetrain::testing {

// Takes the place of torch's CPU allocator for its lifetime; one at a time. Blocks may outlive it:
// each carries its size in the 64 bytes before its data.
class PeakMemory {
 public:
  PeakMemory() : former_(c10::GetCPUAllocator()), start_(counts().live) {
    counts().peak = start_;
    c10::SetCPUAllocator(&allocator(), 255);
  }
  ~PeakMemory() { c10::SetCPUAllocator(former_, 255); }
  PeakMemory(const PeakMemory&) = delete;
  PeakMemory& operator=(const PeakMemory&) = delete;

  // Largest sum of blocks alive that were allocated since the start.
  int64_t bytes() const { return counts().peak - start_; }

 private:
  struct Counts {
    std::atomic<int64_t> live{0}, peak{0};
  };
  static Counts& counts() {
    static Counts counts;
    return counts;
  }
  static constexpr size_t kHeader = 64;  // keeps torch's alignment

  struct Counting final : c10::Allocator {
    c10::DataPtr allocate(size_t bytes) override {
      if (bytes == 0) return {nullptr, nullptr, &release, c10::Device(c10::kCPU)};
      void* block = nullptr;
      if (posix_memalign(&block, kHeader, bytes + kHeader) != 0) throw std::bad_alloc();
      std::memcpy(block, &bytes, sizeof bytes);
      const int64_t now = counts().live += static_cast<int64_t>(bytes);
      for (int64_t peak = counts().peak;
           now > peak && !counts().peak.compare_exchange_weak(peak, now);) {
      }
      void* data = static_cast<char*>(block) + kHeader;
      return {data, data, &release, c10::Device(c10::kCPU)};
    }
    c10::DeleterFnPtr raw_deleter() const override { return &release; }
    void copy_data(void* to, const void* from, size_t bytes) const override {
      default_copy_data(to, from, bytes);
    }
    static void release(void* data) {
      if (!data) return;
      void* block = static_cast<char*>(data) - kHeader;
      size_t bytes = 0;
      std::memcpy(&bytes, block, sizeof bytes);
      counts().live -= static_cast<int64_t>(bytes);
      std::free(block);
    }
  };
  static Counting& allocator() {
    static Counting allocator;
    return allocator;
  }

  c10::Allocator* former_;
  int64_t start_;
};

}  // namespace facetrain::testing
