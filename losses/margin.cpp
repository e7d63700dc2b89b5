#include "losses/margin.h"

namespace facetrain {

MarginOutput plain_output(const at::Tensor& phi, double scale) {
  MarginOutput out;
  out.phi = phi;
  out.dphi_dcos = at::ones_like(phi);
  out.scale = at::full_like(phi, scale);
  return out;
}

at::Tensor Margin::prepass_parameter(const MarginInput&) {
  FT_FAIL("a margin whose rule asks for a pre-pass must override prepass_parameter()");
}

}  // namespace facetrain
