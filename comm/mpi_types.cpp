#include "comm/mpi_types.h"

#include <array>

#include "comm/host_reduce.h"
#include "core/check.h"

namespace facetrain {

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING];
  int length = 0;
  MPI_Error_string(code, text, &length);
  FT_FAIL("{} failed: {}", what, std::string_view(text, length));
}

StridedType::StridedType(int64_t count, int64_t stride) {
  MPI_Datatype plain;
  FT_MPI(MPI_Type_contiguous(static_cast<int>(count), MPI_BYTE, &plain));
  FT_MPI(MPI_Type_create_resized(plain, 0, stride, &type_));
  FT_MPI(MPI_Type_commit(&type_));
  MPI_Type_free(&plain);
}

namespace {

struct Made {
  MPI_Datatype bf16, fp16;
  MPI_Op sum, max;
};
const Made& made();

c10::ScalarType scalar_type_of(MPI_Datatype type) {
  if (type == made().bf16) return c10::kBFloat16;
  if (type == made().fp16) return c10::kHalf;
  if (type == MPI_DOUBLE) return c10::kDouble;
  if (type == MPI_FLOAT) return c10::kFloat;
  if (type == MPI_INT64_T) return c10::kLong;
  return type == MPI_INT32_T ? c10::kInt : c10::kByte;
}

template <ReduceOp op>
void combine(void* in, void* inout, int* count, MPI_Datatype* type) {
  const std::array<const void*, 2> parts = {in, inout};
  reduce_in_rank_order(scalar_type_of(*type), op, parts, inout, *count);
}

// Once, and kept to the end of the process.
const Made& made() {
  static const Made all = [] {
    Made made;
    for (MPI_Datatype* type : {&made.bf16, &made.fp16}) {
      FT_MPI(MPI_Type_contiguous(2, MPI_BYTE, type));
      FT_MPI(MPI_Type_commit(type));
    }
    FT_MPI(MPI_Op_create(combine<ReduceOp::kSum>, /*commute=*/1, &made.sum));
    FT_MPI(MPI_Op_create(combine<ReduceOp::kMax>, /*commute=*/1, &made.max));
    return made;
  }();
  return all;
}

}  // namespace

MPI_Datatype mpi_type_of(c10::ScalarType type) {
  switch (type) {
    case c10::kDouble:
      return MPI_DOUBLE;
    case c10::kFloat:
      return MPI_FLOAT;
    case c10::kBFloat16:
      return made().bf16;
    case c10::kHalf:
      return made().fp16;
    case c10::kLong:
      return MPI_INT64_T;
    case c10::kInt:
      return MPI_INT32_T;
    default:
      return MPI_UINT8_T;
  }
}

MPI_Op mpi_op_of(ReduceOp op) { return op == ReduceOp::kSum ? made().sum : made().max; }

}  // namespace facetrain
