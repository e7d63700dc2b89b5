// The plugin's initialiser: tells the program where the CUDA kernels are.
#include <c10/cuda/CUDAStream.h>

#include "kernels/cuda_table.h"

namespace facetrain::kernels {
namespace {

template <class T>
CudaKernelsOf<T> kernels_of() {
  return {&add_row_sums_cuda<T>, &row_gradients_cuda<T, T>, &add_selected_cuda<T>,
          &unit_rows_cuda<T, T>, &project_rows_cuda<T>};
}

const bool registered = [] {
  set_cuda_kernels({kernels_of<float>(), kernels_of<double>(), &row_gradients_cuda<float, Bfloat16>,
                    &unit_rows_cuda<float, Bfloat16>,
                    [] { return static_cast<void*>(c10::cuda::getCurrentCUDAStream().stream()); }});
  return true;
}();

}  // namespace
}  // namespace facetrain::kernels
