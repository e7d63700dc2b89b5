// Peak of CPU tensor memory while an object lives, measured at torch's allocator.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace facetrain::testing {

// Wraps torch's CPU allocator for its lifetime. Blocks that outlive it still go back to the wrapped
// one.
class PeakMemory final : public c10::Allocator {
 public:
  PeakMemory() : wrapped_(c10::GetCPUAllocator()) { c10::SetCPUAllocator(this, 255); }
  ~PeakMemory() override { c10::SetCPUAllocator(wrapped_, 255); }
  PeakMemory(const PeakMemory&) = delete;
  PeakMemory& operator=(const PeakMemory&) = delete;

  // Largest sum of blocks alive that were allocated since the start.
  int64_t bytes() const { return *peak_; }

  c10::DataPtr allocate(size_t bytes) override {
    c10::DataPtr inner = wrapped_->allocate(bytes);
    const int64_t now = *live_ += static_cast<int64_t>(bytes);
    for (int64_t peak = *peak_; now > peak && !peak_->compare_exchange_weak(peak, now);) {
    }
    void* data = inner.get();
    const c10::Device device = inner.device();
    auto* block = new Block{std::move(inner), live_, static_cast<int64_t>(bytes)};
    return {data, block, &Block::release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  struct Block {
    c10::DataPtr inner;
    std::shared_ptr<std::atomic<int64_t>> live;
    int64_t bytes;
    static void release(void* self) {
      auto* block = static_cast<Block*>(self);
      *block->live -= block->bytes;
      delete block;
    }
  };
  c10::Allocator* wrapped_;
  std::shared_ptr<std::atomic<int64_t>> live_ = std::make_shared<std::atomic<int64_t>>(0);
  std::shared_ptr<std::atomic<int64_t>> peak_ = std::make_shared<std::atomic<int64_t>>(0);
};

}  // namespace facetrain::testing
