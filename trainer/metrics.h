// Means over the units of one step: sums and counts, kept on the device until somebody asks.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "comm/communicator.h"

namespace facetrain {

class Metrics {
 public:
  // `sum` is a scalar over `count` of this rank's units. No host synchronisation.
  void add(const std::string& name, const at::Tensor& sum, double count);
  void merge(const Metrics& other);
  void clear() { entries_.clear(); }
  // Σ sum / Σ count of every name over all ranks; one reduction. **Collective**; the names must be
  // the same everywhere.
  std::map<std::string, double> reduce(Communicator& comm) const;

 private:
  struct Entry {
    at::Tensor sum;
    double count;
  };
  std::map<std::string, Entry> entries_;
};

}  // namespace facetrain
