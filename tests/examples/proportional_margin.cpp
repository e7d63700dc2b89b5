// A margin that is whole where the target's cosine is 1 and gone where it is -1: c - m (1 + c) / 2.
#include "losses/margin.h"

namespace facetrain {
namespace {

struct ProportionalOptions {
  double margin = 0.4, scale = 64;
  void fields(auto& f) {
    f("margin", margin, range(0, 1), "subtracted from a target's cosine of 1");
    f("scale", scale, range(1, 1024), "multiplies the cosines");
  }
};

class Proportional : public Margin {
 public:
  explicit Proportional(const ProportionalOptions& options) : options_(options) {}

  MarginOutput apply(const MarginInput& input) override {
    MarginOutput out;
    out.phi = input.target - options_.margin * (1 + input.target) / 2;
    out.dphi_dcos = at::full_like(input.target, 1 - options_.margin / 2);
    out.scale = at::full_like(input.target, options_.scale);
    return out;
  }

 private:
  ProportionalOptions options_;
};

const bool registered = Margins::get().add<Proportional, ProportionalOptions>(
    "proportional", "a margin that shrinks with the cosine");

}  // namespace
}  // namespace facetrain
