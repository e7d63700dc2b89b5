#include "comm/collectives.h"

#include <algorithm>
#include <numeric>

#include "core/check.h"
#include "core/torch.h"

namespace facetrain {
namespace {

int64_t sum_of(const std::vector<int64_t>& counts) {
  return std::accumulate(counts.begin(), counts.end(), int64_t{0});
}

void check_counts(const char* operation, const std::vector<int64_t>& counts, Communicator& comm) {
  FT_CHECK(std::ssize(counts) == comm.size(), "{} wants the row counts of {} ranks, found {}",
           operation, comm.size(), counts.size());
}

std::vector<int64_t> with_rows(const at::Tensor& like, int64_t rows) {
  std::vector<int64_t> shape = like.sizes().vec();
  shape[0] = rows;
  return shape;
}

// `rows` rows, of which the first are those of `part` and the rest zeros; `part` itself when it has
// as many.
at::Tensor padded(const at::Tensor& part, int64_t rows) {
  if (part.size(0) == rows) return part.contiguous();
  at::Tensor whole = at::zeros(with_rows(part, rows), part.options());
  whole.narrow(0, 0, part.size(0)).copy_(part);
  return whole;
}

// The gradient of rank r's rows is the sum of all ranks' gradients of them.
class GatherRows : public torch::autograd::Function<GatherRows> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& local,
                            const std::vector<int64_t>& counts, int64_t comm) {
    context->saved_data["counts"] = counts;
    context->saved_data["comm"] = comm;
    return gather_rows_detached(local, counts, *reinterpret_cast<Communicator*>(comm));
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    auto& comm = *reinterpret_cast<Communicator*>(context->saved_data["comm"].toInt());
    const std::vector<int64_t> counts = context->saved_data["counts"].toIntVector();
    return {scatter_rows_sum(gradients[0], counts, comm), {}, {}};
  }
};

}  // namespace

std::vector<int64_t> gather_counts(int64_t local, Communicator& comm) {
  const at::Tensor mine = at::full({1}, local, at::kLong),
                   all = at::empty({comm.size()}, at::kLong);
  comm.all_gather(all, mine).wait();
  return {all.data_ptr<int64_t>(), all.data_ptr<int64_t>() + comm.size()};
}

at::Tensor gather_rows(const at::Tensor& local, const std::vector<int64_t>& counts,
                       Communicator& comm) {
  return GatherRows::apply(local, counts, reinterpret_cast<int64_t>(&comm));
}

at::Tensor gather_rows_detached(const at::Tensor& local, const std::vector<int64_t>& counts,
                                Communicator& comm) {
  check_counts("gather_rows", counts, comm);
  FT_CHECK(local.dim() >= 1 && local.size(0) == counts[comm.rank()],
           "gather_rows wants {} rows on rank {} (its count), found a tensor of shape [{}]",
           counts[comm.rank()], comm.rank(), fmt::join(local.sizes(), ", "));
  const at::NoGradGuard no_grad;
  const int64_t most = *std::max_element(counts.begin(), counts.end());
  const at::Tensor in = padded(local.detach(), most);
  const at::Tensor all = at::empty(with_rows(local, most * comm.size()), in.options());
  comm.all_gather(all, in).wait();
  if (sum_of(counts) == all.size(0)) return all;
  std::vector<at::Tensor> parts;
  for (int r = 0; r < comm.size(); ++r) parts.push_back(all.narrow(0, r * most, counts[r]));
  return at::cat(parts);
}

at::Tensor scatter_rows_sum(const at::Tensor& all, const std::vector<int64_t>& counts,
                            Communicator& comm) {
  check_counts("scatter_rows_sum", counts, comm);
  FT_CHECK(all.dim() >= 1 && all.size(0) == sum_of(counts),
           "scatter_rows_sum wants {} rows, found a tensor of shape [{}]", sum_of(counts),
           fmt::join(all.sizes(), ", "));
  const at::NoGradGuard no_grad;
  const int64_t most = *std::max_element(counts.begin(), counts.end());
  at::Tensor in = all.detach().contiguous();
  if (sum_of(counts) != most * comm.size()) {
    std::vector<at::Tensor> parts;
    for (int r = 0, begin = 0; r < comm.size(); begin += static_cast<int>(counts[r]), ++r) {
      parts.push_back(padded(in.narrow(0, begin, counts[r]), most));
    }
    in = at::cat(parts);
  }
  const at::Tensor mine = at::empty(with_rows(all, most), in.options());
  comm.reduce_scatter(mine, in).wait();
  return mine.narrow(0, 0, counts[comm.rank()]);
}

}  // namespace facetrain
