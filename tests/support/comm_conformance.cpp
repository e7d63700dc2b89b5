#include "tests/support/comm_conformance.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "comm/collectives.h"
#include "comm/grad_reducer.h"
#include "core/check.h"
#include "core/torch.h"

namespace facetrain::conformance {
namespace {

const std::vector<at::ScalarType> kReducible = {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf,
                                                at::kLong,   at::kInt,   at::kByte};
// Nothing, one, fewer than ranks, odd, and enough for every algorithm that depends on size.
const std::vector<int64_t> kCounts = {0, 1, 3, 1000, 70001};

c10::Device device = c10::kCPU;
at::TensorOptions on_device(at::ScalarType type) { return at::TensorOptions(type).device(device); }
at::Tensor zeros(int64_t count) { return at::zeros({count}, on_device(at::kFloat)); }

// 1, 2, ..., 5, 1, ...: small enough that sums over 4 ranks are exact in bf16.
at::Tensor ramp(int64_t count, int64_t times, at::ScalarType type) {
  return (at::arange(count, on_device(at::kLong)).remainder(5).add(1) * times).to(type);
}

void expect_equal(const at::Tensor& found, const at::Tensor& wanted, const std::string& what) {
  EXPECT_TRUE(found.scalar_type() == wanted.scalar_type() && at::equal(found, wanted))
      << what << "\nfound " << found.flatten().narrow(0, 0, std::min<int64_t>(8, found.numel()))
      << "\nwanted " << wanted.flatten().narrow(0, 0, std::min<int64_t>(8, wanted.numel()));
}

std::string described(at::ScalarType type, int64_t count) {
  return fmt::format("{} x {}", count, c10::toString(type));
}

void all_reduce_sums(Communicator& comm) {
  const int64_t size = comm.size();
  for (const at::ScalarType type : kReducible) {
    for (const int64_t count : kCounts) {
      at::Tensor values = ramp(count, comm.rank() + 1, type);
      comm.all_reduce(values, ReduceOp::kSum).wait();
      expect_equal(values, ramp(count, size * (size + 1) / 2, type), described(type, count));
    }
  }
}

void all_reduce_takes_the_maximum(Communicator& comm) {
  for (const at::ScalarType type : kReducible) {
    // Element i is largest on rank i % size.
    const bool is_signed = type != at::kByte;
    const int64_t count = 1003;
    const at::Tensor owner = at::arange(count, on_device(at::kLong)).remainder(comm.size());
    at::Tensor values =
        at::where(owner == comm.rank(), at::full({count}, is_signed ? -3 : 7, on_device(at::kLong)),
                  at::full({count}, is_signed ? -9 : 2, on_device(at::kLong)))
            .to(type);
    comm.all_reduce(values, ReduceOp::kMax).wait();
    expect_equal(values, at::full({count}, is_signed ? -3 : 7, on_device(type)),
                 described(type, count));
  }
}

void a_maximum_with_nan_is_nan(Communicator& comm) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    at::Tensor values = at::full({2 * comm.size()}, comm.rank(), on_device(type));
    values[2 * comm.rank()] = std::numeric_limits<double>::quiet_NaN();
    comm.all_reduce(values, ReduceOp::kMax).wait();
    const at::Tensor pairs = values.view({comm.size(), 2});
    EXPECT_TRUE(pairs.select(1, 0).isnan().all().item<bool>()) << c10::toString(type);
    EXPECT_TRUE((pairs.select(1, 1) == comm.size() - 1).all().item<bool>()) << c10::toString(type);
  }
}

void all_gather_keeps_rank_order(Communicator& comm) {
  for (const at::ScalarType type :
       {at::kDouble, at::kFloat, at::kBFloat16, at::kLong, at::kByte, at::kChar, at::kBool}) {
    for (const int64_t count : kCounts) {
      const at::Tensor in = ramp(count, comm.rank() + 1, at::kLong).remainder(3).to(type);
      const at::Tensor out = at::empty({comm.size(), count}, on_device(type));
      comm.all_gather(out, in).wait();
      for (int r = 0; r < comm.size(); ++r) {
        expect_equal(out[r], ramp(count, r + 1, at::kLong).remainder(3).to(type),
                     described(type, count));
      }
    }
  }
}

void all_gather_in_place(Communicator& comm) {
  const at::Tensor out = at::zeros({comm.size(), 33}, on_device(at::kInt));
  out[comm.rank()].copy_(ramp(33, comm.rank() + 1, at::kInt));
  comm.all_gather(out, out[comm.rank()]).wait();
  for (int r = 0; r < comm.size(); ++r) expect_equal(out[r], ramp(33, r + 1, at::kInt), "in place");
}

void reduce_scatter_keeps_the_own_part(Communicator& comm) {
  const int64_t size = comm.size();
  for (const at::ScalarType type : kReducible) {
    for (const int64_t count : kCounts) {
      // Part p of rank r is the ramp times (r + 1), plus p.
      std::vector<at::Tensor> parts;
      for (int64_t p = 0; p < size; ++p)
        parts.push_back(ramp(count, comm.rank() + 1, at::kLong) + p);
      const at::Tensor in = at::stack(parts).to(type), out = at::empty({count}, on_device(type));
      comm.reduce_scatter(out, in).wait();
      expect_equal(out,
                   (ramp(count, size * (size + 1) / 2, at::kLong) + size * comm.rank()).to(type),
                   described(type, count));
    }
  }
}

void broadcast_from_every_root(Communicator& comm) {
  for (int root = 0; root < comm.size(); ++root) {
    for (const int64_t count : kCounts) {
      at::Tensor values = ramp(count, comm.rank() + 1, at::kFloat);
      comm.broadcast(values, root).wait();
      expect_equal(values, ramp(count, root + 1, at::kFloat),
                   fmt::format("{} from {}", count, root));
    }
  }
}

void all_to_all_transposes(Communicator& comm) {
  for (const int64_t count : kCounts) {
    // What rank r sends to rank p says r * 100 + p.
    at::Tensor in = at::empty({comm.size(), count}, on_device(at::kLong));
    for (int p = 0; p < comm.size(); ++p) in[p].fill_(comm.rank() * 100 + p);
    const at::Tensor out = at::empty_like(in);
    comm.all_to_all(out, in).wait();
    for (int r = 0; r < comm.size(); ++r) {
      expect_equal(out[r], at::full({count}, r * 100 + comm.rank(), on_device(at::kLong)),
                   fmt::format("{} from {}", count, r));
    }
  }
}

void works_may_be_waited_for_in_any_order(Communicator& comm) {
  std::vector<at::Tensor> values;
  std::vector<Work> works;
  for (int i = 0; i < 20; ++i) {
    values.push_back(at::full({100 * i + 1}, comm.rank() * 1000 + i, on_device(at::kLong)));
    works.push_back(comm.all_reduce(values.back(), i % 2 == 0 ? ReduceOp::kSum : ReduceOp::kMax));
  }
  const int64_t size = comm.size();
  for (int64_t i = 19; i >= 0; --i) {
    works[i].wait();
    const int64_t wanted =
        i % 2 == 0 ? size * i + 1000 * size * (size - 1) / 2 : (size - 1) * 1000 + i;
    EXPECT_TRUE((values[i] == wanted).all().item<bool>()) << i;
  }
}

void the_destructor_of_work_waits(Communicator& comm) {
  const at::Tensor values = at::full({50000}, comm.rank() + 1, on_device(at::kDouble));
  { const Work work = comm.all_reduce(values, ReduceOp::kSum); }
  EXPECT_TRUE((values == comm.size() * (comm.size() + 1) / 2.).all().item<bool>());
  Work moved = comm.broadcast(values, 0);
  Work target = std::move(moved);
  target = Work();  // waits for the broadcast
  EXPECT_TRUE((values == comm.size() * (comm.size() + 1) / 2.).all().item<bool>());
}

void a_barrier_waits_for_the_slowest(Communicator& comm) {
  comm.barrier();
  const auto start = std::chrono::steady_clock::now();
  if (comm.rank() == comm.size() - 1) std::this_thread::sleep_for(std::chrono::milliseconds(150));
  comm.barrier();
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(100));
}

void wrong_arguments_are_refused_before_anything_is_sent(Communicator& comm) {
  const at::Tensor matrix = at::zeros({4, 4}, on_device(at::kFloat));
  EXPECT_THROW((void)comm.all_reduce(matrix.t(), ReduceOp::kSum), Error);
  EXPECT_THROW((void)comm.all_reduce(at::Tensor(), ReduceOp::kSum), Error);
  EXPECT_THROW((void)comm.all_reduce(at::zeros({2}, on_device(at::kBool)), ReduceOp::kSum), Error);
  EXPECT_THROW((void)comm.all_gather(zeros(4 * comm.size() + 1), zeros(4)), Error);
  EXPECT_THROW((void)comm.all_gather(zeros(4 * comm.size()).to(at::kDouble), zeros(4)), Error);
  EXPECT_THROW((void)comm.reduce_scatter(zeros(4), zeros(4 * comm.size() + 1)), Error);
  EXPECT_THROW((void)comm.broadcast(matrix, comm.size()), Error);
  EXPECT_THROW((void)comm.broadcast(matrix, -1), Error);
  EXPECT_THROW((void)comm.all_to_all(matrix, matrix), Error);
  comm.barrier();  // and the ranks are still in step
}

// ---- what is built on them
// ----------------------------------------------------------------------------------------------
// Unequal numbers of rows: 0 on rank 0 (unless alone), then 2, 4, ...
int64_t rows_of(int rank, int size) { return size == 1 ? 3 : 2 * rank; }
at::Tensor rows_value(int rank, int size) {
  const int64_t rows = rows_of(rank, size);
  return at::arange(rows * 3, on_device(at::kDouble)).view({rows, 3}).add(100 * rank).cos();
}
at::Tensor all_rows(int size) {
  std::vector<at::Tensor> parts;
  for (int r = 0; r < size; ++r) parts.push_back(rows_value(r, size));
  return at::cat(parts);
}

void gather_rows_takes_unequal_rows(Communicator& comm) {
  const int size = comm.size();
  const auto counts = gather_counts(rows_of(comm.rank(), size), comm);
  for (int r = 0; r < size; ++r) EXPECT_EQ(counts[r], rows_of(r, size));
  const at::Tensor mine = rows_value(comm.rank(), size);
  expect_equal(gather_rows_detached(mine, counts, comm), all_rows(size), "doubles");
  const at::Tensor labels =
      at::full({rows_of(comm.rank(), size)}, comm.rank(), on_device(at::kLong));
  const at::Tensor all = gather_rows_detached(labels, counts, comm);
  std::vector<at::Tensor> wanted;
  for (int r = 0; r < size; ++r)
    wanted.push_back(at::full({rows_of(r, size)}, r, on_device(at::kLong)));
  expect_equal(all, at::cat(wanted), "labels");
  EXPECT_THROW(gather_rows_detached(zeros(counts[comm.rank()] + 1), counts, comm), Error);
}

// Each rank's loss is Σ weight_r · rows²: a row's gradient is that of the ranks' sum.
void gather_rows_sums_the_gradients_of_ranks(Communicator& comm) {
  const int size = comm.size();
  const auto counts = gather_counts(rows_of(comm.rank(), size), comm);
  const at::Tensor mine = rows_value(comm.rank(), size).requires_grad_();
  const at::Tensor all = gather_rows(mine, counts, comm);
  expect_equal(all.detach(), all_rows(size), "value");
  (all.square() * (comm.rank() + 1)).sum().backward();
  const double weights = size * (size + 1) / 2.;
  EXPECT_TRUE(at::allclose(mine.grad(), mine.detach() * (2 * weights), 1e-13, 1e-13));
}

void scatter_rows_sum_is_the_inverse(Communicator& comm) {
  const int size = comm.size();
  const auto counts = gather_counts(rows_of(comm.rank(), size), comm);
  const at::Tensor mine = scatter_rows_sum(all_rows(size) * (comm.rank() + 1), counts, comm);
  const at::Tensor wanted = rows_value(comm.rank(), size) * (size * (size + 1) / 2.);
  EXPECT_EQ(mine.sizes(), wanted.sizes());
  EXPECT_TRUE(at::allclose(mine, wanted, 1e-13, 1e-13));
}

// Two layers on rows 5r … 5r + 4 of a batch: the reducer's gradient of the mean loss against one
// rank's of the whole batch.
void grad_reducer_gives_the_gradient_of_the_whole_batch(Communicator& comm) {
  const auto batch_of = [](int rank) {
    return at::arange(5 * 4, on_device(at::kDouble)).view({5, 4}).add(7 * rank).sin();
  };
  const auto parameters = [] {
    std::vector<at::Tensor> made = {at::linspace(-1, 1, 12, on_device(at::kDouble)).view({4, 3}),
                                    at::linspace(0, 1, 3, on_device(at::kDouble))};
    for (at::Tensor& parameter : made) parameter.requires_grad_();
    return made;
  };
  const auto loss = [](const at::Tensor& x, const std::vector<at::Tensor>& p) {
    return (x.mm(p[0]).tanh() + p[1]).square().mean();
  };

  const auto mine = parameters(), whole = parameters();
  GradReducer reducer({{"weight", mine[0]}, {"bias", mine[1]}}, comm, {.bucket_bytes = 64});
  reducer.zero();
  reducer.begin(true);
  loss(batch_of(comm.rank()), mine).backward();
  reducer.finish();

  std::vector<at::Tensor> batches;
  for (int r = 0; r < comm.size(); ++r) batches.push_back(batch_of(r));
  loss(at::cat(batches), whole).backward();
  for (size_t i = 0; i < mine.size(); ++i) {
    EXPECT_TRUE(reducer.reached(mine[i]));
    EXPECT_TRUE(at::allclose(mine[i].grad(), whole[i].grad(), 0, 1e-12)) << i;
  }
}

// ---- bits
// -----------------------------------------------------------------------------------------------------------------
// Numbers of very different sizes, so that the order of additions shows.
at::Tensor rough(int rank, int64_t count, at::ScalarType type) {
  const at::Tensor i = at::arange(count, on_device(at::kDouble)).add(1 + 0.37 * rank);
  return ((i * 12.9898).sin() * at::pow(10., (i * 78.233).cos() * 3)).to(type);
}
at::Tensor sum_in_rank_order(int size, int64_t count, at::ScalarType type) {
  const at::ScalarType accumulate = at::isReducedFloatingType(type) ? at::kFloat : type;
  at::Tensor sum = rough(0, count, type).to(accumulate);
  for (int r = 1; r < size; ++r) sum = sum + rough(r, count, type).to(accumulate);
  return sum.to(type);
}

void sums_have_the_bits_of_rank_order(Communicator& comm) {
  for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kBFloat16, at::kHalf}) {
    for (const int64_t count : {1, 7, 1000, 70001}) {
      at::Tensor values = rough(comm.rank(), count, type);
      comm.all_reduce(values, ReduceOp::kSum).wait();
      expect_equal(values, sum_in_rank_order(comm.size(), count, type), described(type, count));
    }
  }
}

void reduce_scatter_has_the_bits_of_rank_order(Communicator& comm) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    const int64_t count = 1001;
    const at::Tensor out = at::empty({count}, on_device(type));
    comm.reduce_scatter(out, rough(comm.rank(), count * comm.size(), type)).wait();
    expect_equal(out,
                 sum_in_rank_order(comm.size(), count * comm.size(), type)
                     .narrow(0, count * comm.rank(), count),
                 described(type, count));
  }
}

#define FT_CASE(function) \
  { #function, function }

}  // namespace

void set_device(c10::Device wanted) { device = wanted; }

const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      FT_CASE(all_reduce_sums),
      FT_CASE(all_reduce_takes_the_maximum),
      FT_CASE(a_maximum_with_nan_is_nan),
      FT_CASE(all_gather_keeps_rank_order),
      FT_CASE(all_gather_in_place),
      FT_CASE(reduce_scatter_keeps_the_own_part),
      FT_CASE(broadcast_from_every_root),
      FT_CASE(all_to_all_transposes),
      FT_CASE(works_may_be_waited_for_in_any_order),
      FT_CASE(the_destructor_of_work_waits),
      FT_CASE(a_barrier_waits_for_the_slowest),
      FT_CASE(wrong_arguments_are_refused_before_anything_is_sent),
      FT_CASE(gather_rows_takes_unequal_rows),
      FT_CASE(gather_rows_sums_the_gradients_of_ranks),
      FT_CASE(scatter_rows_sum_is_the_inverse),
      FT_CASE(grad_reducer_gives_the_gradient_of_the_whole_batch)};
  return all;
}

const std::vector<Case>& ordered_cases() {
  static const std::vector<Case> all = {FT_CASE(sums_have_the_bits_of_rank_order),
                                        FT_CASE(reduce_scatter_has_the_bits_of_rank_order)};
  return all;
}

}  // namespace facetrain::conformance
