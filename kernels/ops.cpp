#include "kernels/ops.h"

#include <ATen/Parallel.h>

#include <limits>

#include "core/check.h"
#include "core/torch.h"
#include "kernels/cuda_table.h"

// MKL's GEMM of bfloat16 into float, part of libtorch_cpu.so; torch has no header for it. LP64:
// int.
extern "C" void cblas_gemm_bf16bf16f32(int layout, int trans_a, int trans_b, int m, int n, int k,
                                       float alpha, const uint16_t* a, int lda, const uint16_t* b,
                                       int ldb, float beta, float* c, int ldc);

namespace facetrain {
namespace {

kernels::CudaKernels& cuda_table() {
  static kernels::CudaKernels table;
  return table;
}
const kernels::CudaKernels& cuda_kernels() {
  FT_CHECK(cuda_table().current_stream,
           "wanted the CUDA kernels for a CUDA tensor, but libfacetrain_cuda.so is not loaded; "
           "start the run with device: cuda");
  return cuda_table();
}
// Without the check that the plugin is there: for the CPU path, which names the pointers but does
// not call them.
template <class T>
const kernels::CudaKernelsOf<T>& cuda_table_of() {
  if constexpr (std::is_same_v<T, float>)
    return cuda_table().f32;
  else
    return cuda_table().f64;
}
template <class T>
const kernels::CudaKernelsOf<T>& cuda_kernels_of() {
  cuda_kernels();
  return cuda_table_of<T>();
}

template <class T>
T* pointer(const at::Tensor& tensor) {
  return tensor.defined() ? tensor.data_ptr<T>() : nullptr;
}
kernels::Bfloat16* bf16_pointer(const at::Tensor& tensor) {
  return reinterpret_cast<kernels::Bfloat16*>(tensor.data_ptr<at::BFloat16>());
}

// A vector of the rows: [rows] of the type of the cosines, contiguous, on their device; or
// undefined.
void check_vector(const at::Tensor& vector, const at::Tensor& cosines, const char* what) {
  if (!vector.defined()) return;
  FT_CHECK(vector.dim() == 1 && vector.size(0) == cosines.size(0) && vector.is_contiguous() &&
               vector.device() == cosines.device() &&
               (vector.scalar_type() == cosines.scalar_type() || vector.scalar_type() == at::kLong),
           "kernels: {} wants [{}] of {}, found {} of {}", what, cosines.size(0),
           toString(cosines.scalar_type()), fmt::join(vector.sizes(), " x "),
           toString(vector.scalar_type()));
}

kernels::Chunk chunk_of(const at::Tensor& cosines, int64_t first) {
  FT_CHECK(cosines.dim() == 2 && cosines.is_contiguous(),
           "kernels: wanted contiguous cosines [B, n], found {}",
           fmt::join(cosines.sizes(), " x "));
  return {cosines.size(0), cosines.size(1), first};
}

template <class T>
kernels::RowVectors<T> vectors_of(const RowVectors& rows, const at::Tensor& cosines) {
  for (const at::Tensor* vector : {&rows.scale, &rows.shift, &rows.p0, &rows.p1, &rows.target})
    check_vector(*vector, cosines, "a row vector");
  return {pointer<T>(rows.scale), pointer<T>(rows.shift), pointer<T>(rows.p0), pointer<T>(rows.p1),
          pointer<int64_t>(rows.target)};
}

// body(T{}) for the accumulation type.
template <class Body>
void for_type(const at::Tensor& tensor, Body body) {
  if (tensor.scalar_type() == at::kDouble) return body(double{});
  FT_CHECK(tensor.scalar_type() == at::kFloat, "kernels: wanted fp32 or fp64, found {}",
           toString(tensor.scalar_type()));
  body(float{});
}

// Rows a task: about 16,000 elements, so that small chunks stay on one thread.
int64_t grain(int64_t columns) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns));
}

}  // namespace

void kernels::set_cuda_kernels(const CudaKernels& kernels) { cuda_table() = kernels; }

RowSums RowSums::start(int64_t rows, const at::TensorOptions& options) {
  return {at::full({rows}, -std::numeric_limits<double>::infinity(), options),
          at::zeros({rows}, options), at::zeros({rows}, options), at::zeros({rows}, options),
          at::zeros({rows}, options)};
}

void add_row_sums(const at::Tensor& cosines, int64_t first, const kernels::RowRule& rule,
                  const RowVectors& rows, RowSums& sums) {
  const kernels::Chunk chunk = chunk_of(cosines, first);
  for (const at::Tensor* vector :
       {&sums.maximum, &sums.sum, &sums.weight_sum, &sums.value_sum, &sums.plain_sum})
    check_vector(*vector, cosines, "a row sum");
  for_type(cosines, [&]<class T>(T) {
    const auto vectors = vectors_of<T>(rows, cosines);
    const kernels::RowSums<T> to{pointer<T>(sums.maximum), pointer<T>(sums.sum),
                                 pointer<T>(sums.weight_sum), pointer<T>(sums.value_sum),
                                 pointer<T>(sums.plain_sum)};
    const T* from = cosines.data_ptr<T>();
    if (cosines.is_cuda())
      return cuda_kernels_of<T>().add_row_sums(from, chunk, rule, vectors, to,
                                               cuda_kernels().current_stream());
    at::parallel_for(0, chunk.rows, grain(chunk.columns), [&](int64_t begin, int64_t end) {
      kernels::add_row_sums_cpu<T>(from, chunk, rule, vectors, to, begin, end);
    });
  });
}

void row_gradients(const at::Tensor& cosines, const at::Tensor& out, int64_t first,
                   const kernels::RowRule& rule, const RowVectors& rows,
                   const at::Tensor& coefficient, const at::Tensor& log_sum,
                   const at::Tensor& target_gradient, const at::Tensor& constant) {
  const kernels::Chunk chunk = chunk_of(cosines, first);
  FT_CHECK(out.sizes() == cosines.sizes() && out.is_contiguous(),
           "kernels: wanted a gradient of the cosines' shape, found {}",
           fmt::join(out.sizes(), " x "));
  for (const at::Tensor* vector : {&coefficient, &log_sum, &target_gradient, &constant})
    check_vector(*vector, cosines, "a row gradient");
  for_type(cosines, [&]<class T>(T) {
    const auto vectors = vectors_of<T>(rows, cosines);
    const kernels::RowGradients<T> gradients{pointer<T>(coefficient), pointer<T>(log_sum),
                                             pointer<T>(target_gradient), pointer<T>(constant)};
    const T* from = cosines.data_ptr<T>();
    const auto run = [&](auto* to, auto cuda) {
      if (cosines.is_cuda()) {
        void* stream = cuda_kernels().current_stream();
        return cuda(from, to, chunk, rule, vectors, gradients, stream);
      }
      at::parallel_for(0, chunk.rows, grain(chunk.columns), [&](int64_t begin, int64_t end) {
        kernels::row_gradients_cpu(from, to, chunk, rule, vectors, gradients, begin, end);
      });
    };
    if constexpr (std::is_same_v<T, float>)
      if (out.scalar_type() == at::kBFloat16)
        return run(bf16_pointer(out), cuda_table().row_gradients_bf16);
    run(out.data_ptr<T>(), cuda_table_of<T>().row_gradients);
  });
}

void add_selected(const at::Tensor& cosines, int64_t first, const at::Tensor& threshold,
                  const at::Tensor& target, const at::Tensor& sum, const at::Tensor& count) {
  const kernels::Chunk chunk = chunk_of(cosines, first);
  for (const at::Tensor* vector : {&threshold, &target, &sum, &count})
    check_vector(*vector, cosines, "the pre-pass");
  for_type(cosines, [&]<class T>(T) {
    const T* from = cosines.data_ptr<T>();
    if (cosines.is_cuda())
      return cuda_kernels_of<T>().add_selected(from, chunk, pointer<T>(threshold),
                                               pointer<int64_t>(target), pointer<T>(sum),
                                               pointer<T>(count), cuda_kernels().current_stream());
    at::parallel_for(0, chunk.rows, grain(chunk.columns), [&](int64_t begin, int64_t end) {
      kernels::add_selected_cpu<T>(from, chunk, pointer<T>(threshold), pointer<int64_t>(target),
                                   pointer<T>(sum), pointer<T>(count), begin, end);
    });
  });
}

void unit_rows(const at::Tensor& weight, const RowRange& range, bool normalise,
               const at::Tensor& unit, const at::Tensor& inverse) {
  const int64_t count = unit.size(0), dim = weight.size(1);
  FT_CHECK(weight.is_contiguous() && unit.is_contiguous() && unit.size(1) == dim &&
               (!normalise || (inverse.is_contiguous() && inverse.numel() == count)),
           "kernels: unit_rows wants unit [n, {}] and inverse [n]", dim);
  const kernels::RowChoice choice{pointer<int64_t>(range.ids), range.first, range.group};
  for_type(weight, [&]<class T>(T) {
    const auto run = [&](auto* to, auto cuda) {
      const T* from = weight.data_ptr<T>();
      if (weight.is_cuda()) {
        void* stream = cuda_kernels().current_stream();
        return cuda(from, choice, dim, normalise, to, pointer<T>(inverse), count, stream);
      }
      at::parallel_for(0, count, grain(dim), [&](int64_t begin, int64_t end) {
        kernels::unit_rows_cpu(from, choice, dim, normalise, to, pointer<T>(inverse), begin, end);
      });
    };
    if constexpr (std::is_same_v<T, float>)
      if (unit.scalar_type() == at::kBFloat16)
        return run(bf16_pointer(unit), cuda_table().unit_rows_bf16);
    run(unit.data_ptr<T>(), cuda_table_of<T>().unit_rows);
  });
}

void project_rows(const at::Tensor& weight, const RowRange& range, const at::Tensor& inverse,
                  const at::Tensor& gradient, const at::Tensor& out, bool accumulate) {
  const int64_t count = out.size(0), dim = weight.size(1);
  FT_CHECK(weight.is_contiguous() && gradient.is_contiguous() && out.is_contiguous() &&
               out.size(1) == dim && gradient.sizes() == out.sizes() && inverse.numel() == count,
           "kernels: project_rows wants gradient and out [n, {}] and inverse [n]", dim);
  const kernels::RowChoice choice{pointer<int64_t>(range.ids), range.first, range.group};
  for_type(weight, [&]<class T>(T) {
    const T* from = weight.data_ptr<T>();
    if (weight.is_cuda())
      return cuda_kernels_of<T>().project_rows(from, choice, dim, pointer<T>(inverse),
                                               pointer<T>(gradient), pointer<T>(out), accumulate,
                                               count, cuda_kernels().current_stream());
    at::parallel_for(0, count, grain(dim), [&](int64_t begin, int64_t end) {
      kernels::project_rows_cpu<T>(from, choice, dim, pointer<T>(inverse), pointer<T>(gradient),
                                   pointer<T>(out), accumulate, begin, end);
    });
  });
}

namespace {

// Row-major storage of a matrix or of its transpose, as BLAS wants it.
struct BlasMatrix {
  const uint16_t* data;
  int transposed, stride;
  explicit BlasMatrix(const at::Tensor& m)
      : data(reinterpret_cast<const uint16_t*>(m.data_ptr<at::BFloat16>())) {
    constexpr int kNoTrans = 111, kTrans = 112;
    // A single row or column has any stride, but BLAS wants one that its length fits into.
    const int64_t rows = m.size(0), columns = m.size(1);
    const bool plain = m.stride(1) == 1 && (rows == 1 || m.stride(0) >= columns);
    FT_CHECK(plain || (m.stride(0) == 1 && (columns == 1 || m.stride(1) >= rows)),
             "kernels: matmul wants a matrix or a transposed view");
    transposed = plain ? kNoTrans : kTrans;
    const int64_t step = plain ? std::max(m.stride(0), columns) : std::max(m.stride(1), rows);
    stride = static_cast<int>(std::max<int64_t>(1, step));
  }
};

}  // namespace

void matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out, bool accumulate) {
  if (a.scalar_type() != at::kBFloat16) {
    at::Tensor to = out;
    if (accumulate)
      to.addmm_(a, b);
    else
      at::mm_out(to, a, b);
  } else if (out.is_cuda()) {
    at::Tensor to = accumulate ? at::empty_like(out) : out;
    at::mm_out(to, a, b, at::kFloat);
    if (accumulate) at::Tensor(out).add_(to);
  } else {
    constexpr int kRowMajor = 101;
    const BlasMatrix left(a), right(b);
    cblas_gemm_bf16bf16f32(kRowMajor, left.transposed, right.transposed,
                           static_cast<int>(a.size(0)), static_cast<int>(b.size(1)),
                           static_cast<int>(a.size(1)), 1.0f, left.data, left.stride, right.data,
                           right.stride, accumulate ? 1.0f : 0.0f, out.data_ptr<float>(),
                           static_cast<int>(std::max(out.stride(0), out.size(1))));
  }
}

bool has_fast_bf16(const at::Device& device) {
  static const bool cpu = __builtin_cpu_supports("amx-bf16") != 0;
  return device.is_cuda() || cpu;
}

}  // namespace facetrain
