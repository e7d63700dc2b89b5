// Every combination that the margin kernels are tested with, on the CPU and on a GPU.
#pragma once

#include <c10/core/ScalarType.h>
#include <gtest/gtest.h>

#include "kernels/margin_rules.h"

namespace facetrain {

inline auto every_margin_kernel() {
  using ::testing::Values;
  return ::testing::Combine(
      Values(NegativeRule::kNone, NegativeRule::kAffineAbove, NegativeRule::kCurricular,
             NegativeRule::kGaussian, NegativeRule::kCircle, NegativeRule::kAngleDivide,
             NegativeRule::kPower),
      Values(RowReduction::kSoftmax, RowReduction::kSoftplusSum, RowReduction::kGatedSum),
      Values(c10::ScalarType::Float, c10::ScalarType::Double));
}

}  // namespace facetrain
