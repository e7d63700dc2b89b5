#include "tests/unit/losses/classifier_problem.h"

#include <gtest/gtest.h>

#include <mutex>

#include "comm/thread_comm.h"
#include "core/random.h"
#include "losses/class_draws.h"

namespace facetrain::testing {
namespace {

torch::Tensor normals(std::vector<int64_t> shape, uint64_t key) {
  torch::Tensor out = torch::empty(shape, torch::kDouble);
  Random random(key);
  for (int64_t i = 0; i < out.numel(); ++i) out.data_ptr<double>()[i] = random.normal();
  return out;
}

// Rows of micro-batch `part` of `parts` that belong to a rank.
Slice rows_of(const Problem& problem, int64_t part, int rank, int size) {
  const Slice batch =
      slice_of(problem.rows(), static_cast<int>(part), static_cast<int>(problem.micro_batches));
  const Slice mine = slice_of(batch.size(), rank, size);
  return {batch.begin + mine.begin, batch.begin + mine.end};
}

}  // namespace

Problem make_problem(int64_t rows, int64_t classes, int64_t dim, uint64_t seed) {
  Problem p;
  p.classes = classes;
  p.dim = dim;
  p.seed = seed;
  p.x = normals({rows, dim}, random_key(seed, 1));
  p.label = torch::empty({rows}, torch::kLong);
  Random random(random_key(seed, 2));
  // The last third of the classes never occurs: a shard may be without any label.
  for (int64_t i = 0; i < rows; ++i)
    p.label.data_ptr<int64_t>()[i] = random.below(std::max<int64_t>(1, classes * 2 / 3));
  const torch::Tensor own =
      draw_class_rows({0, classes}, 1, dim, 1, seed).to(torch::kDouble).index_select(0, p.label);
  const torch::Tensor pull =
      torch::remainder(torch::arange(rows, torch::kDouble), 5) - 1.5;  // -1.5 ... 2.5
  p.x =
      (p.x + pull.unsqueeze(1) * own) * (torch::arange(rows, torch::kDouble) * 3 + 1).unsqueeze(1);
  p.row_weight = (normals({rows}, random_key(seed, 3)).abs() + 0.1) / rows;
  return p;
}

Parameters make_parameters(const Problem& problem, const MarginRule& rule) {
  Parameters all;
  all.weight =
      draw_class_rows({0, problem.classes}, rule.rows_per_class, problem.dim, 0.01, problem.seed)
          .to(torch::kDouble);
  if (rule.bias == Bias::kPerClass)
    all.bias = normals({problem.classes}, random_key(problem.seed, 4));
  if (rule.bias == Bias::kShared)
    all.shared_bias = torch::full({1}, rule.shared_bias, torch::kDouble);
  return all;
}

MarginRule rule_of(const Problem& problem, const MarginCase& margin) {
  const auto made = margin.make();
  made->set_problem(problem.classes, problem.sample_rate);
  return made->rule();
}

Solution solve_sharded(const Problem& problem, const MarginCase& margin, int size,
                       torch::ScalarType embeddings, torch::ScalarType rows) {
  const MarginRule rule = rule_of(problem, margin);
  const Parameters start = make_parameters(problem, rule);
  Solution all;
  all.loss = torch::zeros({problem.rows()}, torch::kDouble);
  all.by_x = torch::zeros_like(problem.x);
  all.by_weight = torch::zeros_like(start.weight);
  if (start.bias.defined()) all.by_bias = torch::zeros_like(start.bias);
  std::vector<torch::Tensor> classes(size), by_shared(size);
  std::mutex lock;
  run_thread_ranks(size, [&](Communicator& comm) {
    ASSERT_EQ(comm.size(), size);
    ClassifierOptions options;
    options.classes = problem.classes;
    options.sample_rate = problem.sample_rate;
    options.workspace_mb = problem.workspace_mb;
    options.gemm = problem.gemm;
    if (problem.configure) problem.configure(options);
    ShardedClassifier classifier(options, problem.dim, margin.make(), comm, problem.seed);
    classifier.to(rows);
    const Slice here = slice_of(problem.classes, comm.rank(), comm.size());
    {
      const torch::NoGradGuard none;
      if (start.bias.defined()) classifier.bias.copy_(start.bias.slice(0, here.begin, here.end));
      if (start.shared_bias.defined()) classifier.shared_bias.copy_(start.shared_bias);
    }
    std::vector<torch::Tensor> labels;
    for (int64_t part = 0; part < problem.micro_batches; ++part) {
      const Slice mine = rows_of(problem, part, comm.rank(), size);
      labels.push_back(problem.label.slice(0, mine.begin, mine.end));
    }
    classifier.begin_step(labels, problem.step, 100, 10);
    for (int64_t part = 0; part < problem.micro_batches; ++part) {
      const Slice mine = rows_of(problem, part, comm.rank(), size);
      const torch::Tensor x =
          problem.x.slice(0, mine.begin, mine.end).to(embeddings).clone().set_requires_grad(true);
      const torch::Tensor loss =
          classifier.forward(x, labels[part], torch::arange(mine.begin, mine.end));
      (size * (loss * problem.row_weight.slice(0, mine.begin, mine.end).to(rows)).sum()).backward();
      const std::lock_guard guard(lock);
      all.loss.slice(0, mine.begin, mine.end).copy_(loss.detach());
      all.by_x.slice(0, mine.begin, mine.end).copy_(x.grad() / size);
    }
    const std::lock_guard guard(lock);
    const int64_t k = rule.rows_per_class;
    torch::Tensor local = torch::arange(here.size());
    torch::Tensor by_weight = classifier.weight.grad(),
                  by_bias = classifier.bias.defined() ? classifier.bias.grad() : torch::Tensor();
    if (classifier.touched_rows("weight").defined()) {
      EXPECT_FALSE(classifier.weight.grad().defined());
      local = classifier.touched_rows("bias");
      by_weight = classifier.row_gradient("weight");
      by_bias = classifier.row_gradient("bias");
      EXPECT_TRUE(torch::equal(classifier.touched_rows("weight").remainder(k),
                               torch::arange(k).repeat({local.size(0)})));
    }
    const torch::Tensor ids = local + here.begin;
    EXPECT_EQ(classifier.sampled_classes(), ids.size(0));
    EXPECT_EQ(by_weight.size(0), k * ids.size(0));
    all.by_weight.view({problem.classes, k * problem.dim})
        .index_copy_(0, ids, by_weight.to(torch::kDouble).view({ids.size(0), k * problem.dim}));
    if (by_bias.defined()) all.by_bias.index_copy_(0, ids, by_bias.to(torch::kDouble));
    classes[comm.rank()] = ids;
    if (classifier.shared_bias.defined())
      by_shared[comm.rank()] = classifier.shared_bias.grad().to(torch::kDouble).clone();
  });
  all.classes = torch::cat(classes);
  if (by_shared[0].defined())
    all.by_shared_bias = torch::stack(by_shared).mean(0);  // as the reducer does
  return all;
}

torch::Tensor reference_losses(const Problem& problem, const MarginCase& margin,
                               const Parameters& parameters, const torch::Tensor& x,
                               const torch::Tensor& subset, Held& held) {
  const MarginRule rule = rule_of(problem, margin);
  ReferenceInput in;
  in.classes = problem.classes;
  in.step = problem.step;
  in.norm = x.norm(2, 1);
  const torch::Tensor features = rule.normalise ? x / in.norm.unsqueeze(1) : x;
  in.features = features;
  const torch::Tensor rows =
      rule.normalise ? parameters.weight / parameters.weight.norm(2, 1, true) : parameters.weight;
  in.cosine =
      features.mm(rows.t()).view({problem.rows(), problem.classes, rule.rows_per_class}).amax(2);
  if (parameters.bias.defined()) in.cosine = in.cosine + parameters.bias;
  in.label = problem.label;
  if (subset.defined()) {
    in.cosine = in.cosine.index_select(1, subset);
    in.label = torch::searchsorted(subset, problem.label);
  }
  in.shared_bias = parameters.shared_bias;
  return margin.reference(in, held);
}

Solution solve_reference(const Problem& problem, const MarginCase& margin,
                         const torch::Tensor& subset, Held& held) {
  Parameters parameters = make_parameters(problem, rule_of(problem, margin));
  const torch::Tensor x = problem.x.clone().set_requires_grad(true);
  parameters.weight.set_requires_grad(true);
  if (parameters.bias.defined()) parameters.bias.set_requires_grad(true);
  if (parameters.shared_bias.defined()) parameters.shared_bias.set_requires_grad(true);
  const torch::Tensor loss = reference_losses(problem, margin, parameters, x, subset, held);
  (loss * problem.row_weight).sum().backward();
  Solution all{loss.detach(), x.grad(), parameters.weight.grad(), {}, {}, subset};
  if (parameters.bias.defined()) all.by_bias = parameters.bias.grad();
  if (parameters.shared_bias.defined()) all.by_shared_bias = parameters.shared_bias.grad();
  return all;
}

double difference(const torch::Tensor& a, const torch::Tensor& b) {
  if (!a.defined() && !b.defined()) return 0;
  EXPECT_EQ(a.defined(), b.defined());
  EXPECT_EQ(a.sizes(), b.sizes());
  return ((a - b).abs() / b.abs().clamp_min(1)).max().item<double>();
}

}  // namespace facetrain::testing
