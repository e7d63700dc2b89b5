#include "trainer/metrics.h"

#include <ATen/ATen.h>

namespace facetrain {

void Metrics::add(const std::string& name, const at::Tensor& sum, double count) {
  const at::Tensor value = sum.detach().to(at::kDouble);
  auto [entry, fresh] = entries_.try_emplace(name, Entry{value, count});
  if (fresh) return;
  entry->second.sum = entry->second.sum + value;
  entry->second.count += count;
}

void Metrics::merge(const Metrics& other) {
  for (const auto& [name, entry] : other.entries_) add(name, entry.sum, entry.count);
}

std::map<std::string, double> Metrics::reduce(Communicator& comm) const {
  std::map<std::string, double> means;
  if (entries_.empty()) return means;
  std::vector<at::Tensor> sums;
  std::vector<double> counts;
  for (const auto& [name, entry] : entries_) {
    sums.push_back(entry.sum.reshape({}));
    counts.push_back(entry.count);
  }
  const at::Tensor all = at::cat({at::stack(sums).cpu(), at::tensor(counts, at::kDouble)});
  comm.all_reduce(all, ReduceOp::kSum).wait();
  const double* values = all.const_data_ptr<double>();
  const size_t number = entries_.size();
  size_t i = 0;
  for (const auto& [name, entry] : entries_) {
    means[name] = values[i] / values[number + i];
    ++i;
  }
  return means;
}

}  // namespace facetrain
