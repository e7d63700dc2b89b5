// A small classification problem in float64, solved twice: by ShardedClassifier on thread ranks,
// and by a composite that stores all cosines [N, C] and leaves the derivatives to autograd. Shared
// by the tests of losses/.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/torch.h"
#include "losses/margin.h"
#include "losses/sharded_classifier.h"

namespace facetrain::testing {

// Quantities that a method detaches: computed at the first call, constants from then on, so that
// finite differences see the same function as autograd does.
class Held {
 public:
  torch::Tensor operator()(const std::string& name, const torch::Tensor& value) {
    auto [at, fresh] = values_.try_emplace(name, torch::Tensor());
    if (fresh) at->second = value.detach().clone();
    return at->second;
  }

 private:
  std::map<std::string, torch::Tensor> values_;
};

// What a reference formula sees: every cosine (products plus bias where the margin does not
// normalise).
struct ReferenceInput {
  torch::Tensor cosine;       // [N, C]
  torch::Tensor features;     // [N, D] what the cosines were made of
  torch::Tensor label;        // [N] column of the own class
  torch::Tensor norm;         // [N]
  torch::Tensor shared_bias;  // [1] or undefined
  int64_t classes = 0;        // of the whole problem
  int64_t step = 0;           // row i is at position i of the stream
};
using Reference = std::function<torch::Tensor(const ReferenceInput&, Held&)>;  // row losses [N]

// A margin, how to make it, and the formula of its paper.
struct MarginCase {
  std::string name;
  std::function<std::shared_ptr<Margin>()> make;
  Reference reference;
  bool batch_statistics = false;  // micro-batches are then not equal to one batch
  std::string margin;             // its registered name; empty: a margin of the tests
};
inline void PrintTo(const MarginCase& c, std::ostream* out) { *out << c.name; }

struct Problem {
  int64_t classes = 10, dim = 8;
  torch::Tensor x;           // [N, D]
  torch::Tensor label;       // [N]
  torch::Tensor row_weight;  // [N] dJ / dloss of each row
  uint64_t seed = 7;
  double sample_rate = 1;
  int64_t step = 3;
  int64_t micro_batches = 1;
  double workspace_mb = 0.001;  // a few classes a chunk
  std::string gemm = "bf16";    // for bf16 embeddings, whatever the machine is fast at
  std::function<void(ClassifierOptions&)> configure;  // what a test sets beyond these
  int64_t rows() const { return x.size(0); }
};
// N rows of different norms, some near their class's row, some opposite, labels not in every shard.
Problem make_problem(int64_t rows, int64_t classes, int64_t dim, uint64_t seed);

// What a run gives, put together over the ranks: true gradients of J = Σ row_weight loss.
struct Solution {
  torch::Tensor loss;            // [N]
  torch::Tensor by_x;            // [N, D]
  torch::Tensor by_weight;       // [K C, D]; unsampled rows zero
  torch::Tensor by_bias;         // [C] or undefined
  torch::Tensor by_shared_bias;  // [1] or undefined
  torch::Tensor classes;         // global ids in the step
};

// The learned numbers of a problem, whole.
struct Parameters {
  torch::Tensor weight, bias, shared_bias;
};
Parameters make_parameters(const Problem& problem, const MarginRule& rule);
// The rule of a margin that knows the problem, as the classifier asks for it.
MarginRule rule_of(const Problem& problem, const MarginCase& margin);

// Rows go to ranks by slice_of, and to micro-batches alike; asserts the world size.
Solution solve_sharded(const Problem& problem, const MarginCase& margin, int size,
                       torch::ScalarType embeddings = torch::kDouble,
                       torch::ScalarType rows = torch::kDouble);

// The composite on the classes of `subset` (global ids, ascending; undefined: all).
torch::Tensor reference_losses(const Problem& problem, const MarginCase& margin,
                               const Parameters& parameters, const torch::Tensor& x,
                               const torch::Tensor& subset, Held& held);
Solution solve_reference(const Problem& problem, const MarginCase& margin,
                         const torch::Tensor& subset, Held& held);

// Largest |a - b| / max(1, |b|).
double difference(const torch::Tensor& a, const torch::Tensor& b);

// Every registered margin in its variants, and every rule of the negatives under every reduction.
std::vector<MarginCase> registered_cases();
std::vector<MarginCase> interface_cases();

}  // namespace facetrain::testing
