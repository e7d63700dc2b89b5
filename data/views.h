// The transform `views`: several images of one decoded sample, each through transforms of its own.
#pragma once

#include "data/transform.h"

namespace facetrain {

// One item of its list.
struct ViewOptions {
  std::string field;
  int64_t count = 1;
  Config transforms;
  void fields(auto& f) {
    f("field", field, "name of the batch's field; with count > 1 FIELD.0, FIELD.1, ...");
    f("count", count, range(1, 64), "how many, each with draws of its own");
    f("transforms", transforms, "of this view, in this order: a list of {name: .., ...}");
  }
};

}  // namespace facetrain
