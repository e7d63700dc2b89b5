// models/ sees no communicator: this gives its StatisticsReducer one, for batch_norm: sync.
#pragma once

#include "comm/communicator.h"
#include "models/batch_norm.h"

namespace facetrain {

class CommStatistics : public StatisticsReducer {
 public:
  explicit CommStatistics(Communicator& comm) : comm_(comm) {}
  void sum(torch::Tensor& statistics) override {
    comm_.all_reduce(statistics, ReduceOp::kSum).wait();
  }

 private:
  Communicator& comm_;
};

}  // namespace facetrain
