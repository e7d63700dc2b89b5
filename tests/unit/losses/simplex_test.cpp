// The classifier whose rows are the vertices of a regular simplex: the published vertices, the same
// at any world size, not learned, and where it cannot be.
#include "losses/simplex.h"

#include <gtest/gtest.h>

#include "comm/thread_comm.h"
#include "losses/sharded_classifier.h"
#include "tests/support/error_of.h"
#include "tests/unit/losses/classifier_problem.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

// The vertices of K = 4 that the authors' code prints (reference/ssl_peft_unlearning.md section
// 12).
TEST(Simplex, OfFourClassesIsThePublishedOne) {
  const Tensor rows = simplex_rows({0, 4}, 4, 3);
  const float a = 0.96225f, b = -0.19245f, c = -0.57735f;
  const Tensor expected = torch::tensor({a, b, b, b, a, b, b, b, a, c, c, c}).view({4, 3});
  EXPECT_LE((rows - expected).abs().max().item<float>(), 5e-6f);
}

TEST(Simplex, IsRegularAtAnySizeAndPadding) {
  for (const int64_t classes : {2, 3, 10, 257})
    for (const int64_t spare : {0, 1, 7}) {
      SCOPED_TRACE(fmt::format("{} classes, {} spare dimensions", classes, spare));
      const Tensor rows = simplex_rows({0, classes}, classes, classes - 1 + spare);
      const Tensor wide = rows.to(torch::kDouble);
      const double other = -1 / static_cast<double>(classes - 1);
      const Tensor expected =
          torch::full({classes, classes}, other, torch::kDouble).fill_diagonal_(1);
      EXPECT_LE((wide.mm(wide.t()) - expected).abs().max().item<double>(), 1e-6);
      EXPECT_EQ(rows.slice(1, classes - 1).abs().sum().item<float>(), 0);
      for (const int size : {2, 3, 4}) {
        std::vector<Tensor> parts;
        for (int rank = 0; rank < size; ++rank)
          parts.push_back(simplex_rows(slice_of(classes, rank, size), classes, rows.size(1)));
        EXPECT_TRUE(torch::equal(torch::cat(parts), rows));
      }
    }
}

ClassifierOptions simplex_options(int64_t classes) {
  ClassifierOptions options;
  options.classes = classes;
  options.fixed = "simplex";
  return options;
}
std::shared_ptr<Margin> margin_of(const std::string& yaml) {
  return Margins::get().create(Config::parse(yaml));
}

TEST(Simplex, WantsEnoughDimensionsClassesAndOneRowAClass) {
  const auto comm = make_thread_comms(1)[0];
  const auto make = [&](int64_t classes, int64_t dim, std::shared_ptr<Margin> margin) {
    return ShardedClassifier(simplex_options(classes), dim, std::move(margin), *comm, 1);
  };
  expect_error([&] { make(10, 8, margin_of("{name: cosface}")); },
               {"classifier.fixed", "simplex of 10 classes", "at least 9 dimensions", "found 8",
                "model.embedding: 9"});
  expect_error([&] { make(1, 8, margin_of("{name: cosface}")); }, {"at least two classes"});
  struct TwoCentres : Margin {
    MarginRule rule() const override {
      MarginRule rule;
      rule.rows_per_class = 2;
      return rule;
    }
    MarginOutput apply(const MarginInput&) override { return {}; }
  };
  expect_error([&] { make(5, 8, std::make_shared<TwoCentres>()); },
               {"classifier.fixed: simplex", "2 sub-centres"});
  EXPECT_NO_THROW(make(10, 9, margin_of("{name: cosface}")));
}

TEST(Simplex, IsFrozenAndALearnedClassifierIsNot) {
  const auto comm = make_thread_comms(1)[0];
  const ShardedClassifier fixed(simplex_options(5), 6, margin_of("{name: softmax}"), *comm, 1);
  EXPECT_EQ(fixed.frozen(), std::vector<std::string>{"weight"});
  EXPECT_FALSE(fixed.weight.requires_grad());
  EXPECT_TRUE(fixed.bias.requires_grad());
  EXPECT_EQ(fixed.sharded().size(), 2u);  // the checkpoint holds the rows all the same
  EXPECT_EQ(fixed.parameters().size(), 2u);
  ClassifierOptions learned;
  learned.classes = 5;
  EXPECT_TRUE(
      ShardedClassifier(learned, 6, margin_of("{name: softmax}"), *comm, 1).frozen().empty());
}

// CosFace over the vertices, written out: value and gradient by the embeddings (1e-9), with sampled
// classes and spare ones that no label names; the rows get no gradient.
TEST(Simplex, LossAndGradientAtEveryWorldSize) {
  const int64_t classes = 12, dim = 13;
  const Problem problem = make_problem(9, 6, dim, 4);
  const Tensor rows = simplex_rows({0, classes}, classes, dim).to(torch::kDouble);
  for (const double rate : {1.0, 0.0}) {
    const Tensor subset =
        rate < 1 ? std::get<0>(at::_unique2(problem.label)) : torch::arange(classes);
    const Tensor x = problem.x.clone().set_requires_grad(true);
    const Tensor unit = rows / rows.norm(2, 1, true);
    const Tensor cosine = (x / x.norm(2, 1, true)).mm(unit.t()).index_select(1, subset);
    const Tensor own = torch::searchsorted(subset, problem.label);
    const Tensor margin = torch::zeros_like(cosine).scatter_(1, own.unsqueeze(1), 0.4);
    const Tensor logits = 64 * (cosine - margin);
    const Tensor expected = logits.logsumexp(1) - logits.gather(1, own.unsqueeze(1)).squeeze(1);
    (expected * problem.row_weight).sum().backward();
    for (const int size : {1, 2, 3, 4}) {
      SCOPED_TRACE(fmt::format("{} ranks at rate {}", size, rate));
      run_thread_ranks(size, [&](Communicator& comm) {
        ASSERT_EQ(comm.size(), size);
        ClassifierOptions options = simplex_options(classes);
        options.sample_rate = rate;
        ShardedClassifier classifier(options, dim, margin_of("{name: cosface}"), comm, 1);
        classifier.to(torch::kDouble);
        const Slice mine = slice_of(9, comm.rank(), size);
        const auto part = [&](const Tensor& all) { return all.slice(0, mine.begin, mine.end); };
        const Tensor leaf = part(problem.x).clone().set_requires_grad(true);
        classifier.begin_step(std::vector<Tensor>{part(problem.label)}, 0, 1, 1);
        const Tensor loss =
            classifier.forward(leaf, part(problem.label), torch::arange(mine.begin, mine.end));
        (size * (loss * part(problem.row_weight)).sum()).backward();
        EXPECT_LE(difference(loss.detach(), part(expected).detach()), 1e-9);
        EXPECT_LE(difference(leaf.grad() / size, part(x.grad())), 1e-9);
        EXPECT_FALSE(classifier.weight.grad().defined());
        EXPECT_FALSE(classifier.row_gradient("weight").defined());
      });
    }
  }
}

}  // namespace
}  // namespace facetrain::testing
