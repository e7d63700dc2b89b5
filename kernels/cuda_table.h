// The CUDA kernels as pointers to functions, filled in by the plugin libfacetrain_cuda.so when it
// is loaded.
//
// The program itself links no CUDA: kernels/ops.cpp calls through this table, and says what is
// missing while it is empty.
#pragma once

#include "kernels/margin_softmax.h"
#include "kernels/unit_rows.h"

namespace facetrain::kernels {

template <class T>
struct CudaKernelsOf {
  decltype(&add_row_sums_cuda<T>) add_row_sums = nullptr;
  decltype(&row_gradients_cuda<T, T>) row_gradients = nullptr;
  decltype(&add_selected_cuda<T>) add_selected = nullptr;
  decltype(&unit_rows_cuda<T, T>) unit_rows = nullptr;
  decltype(&project_rows_cuda<T>) project_rows = nullptr;
};

struct CudaKernels {
  CudaKernelsOf<float> f32;
  CudaKernelsOf<double> f64;
  decltype(&row_gradients_cuda<float, Bfloat16>) row_gradients_bf16 = nullptr;
  decltype(&unit_rows_cuda<float, Bfloat16>) unit_rows_bf16 = nullptr;
  void* (*current_stream)() = nullptr;  // torch's, of the current device
};

// Called once, by the plugin's initialiser.
void set_cuda_kernels(const CudaKernels& kernels);

}  // namespace facetrain::kernels
