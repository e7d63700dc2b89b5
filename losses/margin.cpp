#include "losses/margin.h"

namespace facetrain {

at::Tensor Margin::prepass_parameter(const MarginInput&) {
  FT_FAIL("a margin whose rule asks for a pre-pass must override prepass_parameter()");
}

}  // namespace facetrain
