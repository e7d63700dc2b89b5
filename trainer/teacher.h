// A teacher: networks of the same make as a student's that follow it, t <- m t + (1 - m) s.
//
// Registered in its recipe like any module, so it is saved and resumed; frozen as a policy, so
// nothing else moves it. Equal on all ranks because the student is.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/freeze.h"
#include "core/torch.h"
#include "trainer/progress.h"

namespace facetrain {

class Teacher : public torch::nn::Module, public FreezePolicy {
 public:
  // kEval: running statistics, dropout and drop path are off, and an update copies the student's
  // buffers too (EMAN; DINO, BYOL as evaluated). kTrain: statistics of its own batches (MoCo v3).
  enum class Mode { kEval, kTrain };
  explicit Teacher(Mode mode) : mode_(mode) {}

  // Registers `network` under `name` and makes it equal to `student`, whose names and shapes it
  // must have. Returns it.
  template <class Network>
  std::shared_ptr<Network> follow(const std::string& name, const torch::nn::Module& student,
                                  std::shared_ptr<Network> network) {
    register_module(name, network);
    pair_up(student, *network);
    return network;
  }
  void update(double momentum);
  std::vector<std::string> frozen() const override;

 private:
  void pair_up(const torch::nn::Module& student, const torch::nn::Module& network);
  Mode mode_;
  std::vector<std::pair<torch::Tensor, torch::Tensor>> parameters_, buffers_;  // own, student's
};

// From `base` at the start to 1 at the end of the run: 1 - (1 - base) (cos(pi t / T) + 1) / 2
// (BYOL, Grill et al. 2020, arXiv:2006.07733, section 3.2).
double teacher_momentum(double base, const Progress& at);

}  // namespace facetrain
