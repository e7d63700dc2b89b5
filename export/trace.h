// A network's forward as a TorchScript graph, from C++: what the TorchScript and ONNX writers begin
// with.
//
// Tracing records the operations of one forward, so a network whose forward depends on the values
// or the number of its images gives a graph that is right for these images only. trace_network()
// finds that out and throws.
#pragma once

#include <torch/csrc/jit/api/module.h>

#include <functional>
#include <string>

#include "models/backbone.h"

namespace facetrain {

// A module tree with the network's names and its very tensors (nothing is copied), whose `forward`
// takes `data` [B, 3, H, W], normalised, and returns the embedding [B, D]. The network is in eval
// mode on the CPU. Throws when the graph gives other results than the network at another number of
// images.
torch::jit::Module trace_network(Backbone& network);

// The module's one tensor for images, without the interpreter's optimiser, which would compile anew
// for every number of images.
torch::Tensor run_script(torch::jit::Module& module, const torch::Tensor& images);

// Normalised pixels as a network meets them, in [-1, 1), the same at every call: [batch, 3, S, S]
// of the network's image size, in the type of its parameters.
torch::Tensor probe_images(const Backbone& network, int64_t batch);

// Throws unless both give the same embeddings: at batch 1 and 3, difference at most 1e-5 of the
// largest output. `what` begins the message.
void check_same_outputs(Backbone& network,
                        const std::function<torch::Tensor(const torch::Tensor&)>& forward,
                        const std::string& what);

// One line of what LibTorch or its TorchScript interpreter says of a failure: no backtrace.
std::string reason_of(const std::exception& error);

}  // namespace facetrain
