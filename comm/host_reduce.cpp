#include "comm/host_reduce.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <array>

#include "core/check.h"

namespace facetrain {
namespace {

// Small enough that accumulators stay in the first-level cache.
constexpr int64_t kBlock = 1024;

template <class Acc>
Acc larger(Acc a, Acc b) {
  return (b > a || b != b) ? b : a;  // a NaN in either stays
}

template <class T, class Acc>
void reduce(ReduceOp op, std::span<const void* const> parts, void* out, int64_t count) {
  std::array<Acc, kBlock> sum;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    const T* first = static_cast<const T*>(parts[0]) + begin;
    for (int64_t i = 0; i < n; ++i) sum[i] = static_cast<Acc>(first[i]);
    for (const void* part : parts.subspan(1)) {
      const T* next = static_cast<const T*>(part) + begin;
      if (op == ReduceOp::kSum) {
        for (int64_t i = 0; i < n; ++i)
          sum[i] = static_cast<Acc>(sum[i] + static_cast<Acc>(next[i]));
      } else {
        for (int64_t i = 0; i < n; ++i) sum[i] = larger(sum[i], static_cast<Acc>(next[i]));
      }
    }
    T* result = static_cast<T*>(out) + begin;
    for (int64_t i = 0; i < n; ++i) result[i] = static_cast<T>(sum[i]);
  }
}

}  // namespace

bool is_reducible(c10::ScalarType type) {
  switch (type) {
    case c10::kDouble:
    case c10::kFloat:
    case c10::kBFloat16:
    case c10::kHalf:
    case c10::kLong:
    case c10::kInt:
    case c10::kByte:
      return true;
    default:
      return false;
  }
}

void reduce_in_rank_order(c10::ScalarType type, ReduceOp op, std::span<const void* const> parts,
                          void* out, int64_t count) {
  switch (type) {
    case c10::kDouble:
      return reduce<double, double>(op, parts, out, count);
    case c10::kFloat:
      return reduce<float, float>(op, parts, out, count);
    case c10::kBFloat16:
      return reduce<c10::BFloat16, float>(op, parts, out, count);
    case c10::kHalf:
      return reduce<c10::Half, float>(op, parts, out, count);
    // Unsigned accumulators: an overflowing sum wraps instead of being undefined; a maximum needs
    // the sign.
    case c10::kLong:
      return op == ReduceOp::kSum ? reduce<uint64_t, uint64_t>(op, parts, out, count)
                                  : reduce<int64_t, int64_t>(op, parts, out, count);
    case c10::kInt:
      return op == ReduceOp::kSum ? reduce<uint32_t, uint32_t>(op, parts, out, count)
                                  : reduce<int32_t, int32_t>(op, parts, out, count);
    case c10::kByte:
      return reduce<uint8_t, uint8_t>(op, parts, out, count);
    default:
      FT_FAIL("reductions want fp64, fp32, bf16, fp16, int64, int32 or uint8, found {}",
              c10::toString(type));
  }
}

}  // namespace facetrain
