// Which parameters of a module are never trained: declared by the module, never inferred from
// requires_grad.
//
// Frozen means no update, no weight decay, no optimizer state, no gradient bucket; a module that is
// frozen as a whole ("*") also stays in eval mode, so that it keeps no running statistics. Users
// add patterns with `trainer.freeze`.
#pragma once

#include <string>
#include <vector>

namespace facetrain {

class FreezePolicy {
 public:
  virtual ~FreezePolicy() = default;
  // Glob patterns on parameter names below this module: "features.weight", "layer1.*", "*".
  virtual std::vector<std::string> frozen() const = 0;
};

}  // namespace facetrain
