// Runs an ONNX model by ATen: an independent reading of the operators that our rules emit, so that
// an exporter can compare what its file says with the network. No runtime for users: only these
// operators, one tensor after the other.
#pragma once

#include <ATen/core/Tensor.h>

#include "export/onnx_file.h"

namespace facetrain {

// The output for an input; the graph has passed check_onnx_graph(). Throws for other operators.
at::Tensor run_onnx(const OnnxModel& model, const at::Tensor& input);

}  // namespace facetrain
