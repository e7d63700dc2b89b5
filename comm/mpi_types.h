// MPI's side of tensor types: element types, strided blocks, and the reductions of MPI's own
// algorithms.
#pragma once

#include <c10/core/ScalarType.h>
#include <mpi.h>

#include <cstdint>

#include "comm/communicator.h"

namespace facetrain {

// Throws with MPI's text unless `code` is MPI_SUCCESS.
void check_mpi(int code, const char* what);
#define FT_MPI(call) ::facetrain::check_mpi(call, #call)

// `count` bytes that stand `stride` bytes after those of the rank before.
class StridedType {
 public:
  StridedType(int64_t count, int64_t stride);
  ~StridedType() { MPI_Type_free(&type_); }
  StridedType(const StridedType&) = delete;
  StridedType& operator=(const StridedType&) = delete;
  MPI_Datatype get() const { return type_; }

 private:
  MPI_Datatype type_;
};

// For reducible types. bf16 and fp16 have no MPI type: two bytes, and an operation that sums in
// fp32 per pair.
MPI_Datatype mpi_type_of(c10::ScalarType type);
// Works on the types above; a maximum with a NaN is NaN.
MPI_Op mpi_op_of(ReduceOp op);

}  // namespace facetrain
