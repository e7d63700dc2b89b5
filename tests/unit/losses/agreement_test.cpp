// Losses between views, and what they share over ranks: golden vectors of the authors' code,
// float64 restatements, the same at any number of ranks, gradients included.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "comm/collectives.h"
#include "comm/thread_comm.h"
#include "core/random.h"
#include "losses/contrast.h"
#include "losses/gradient_reversal.h"
#include "losses/self_distillation.h"
#include "losses/sinkhorn.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {

using at::Tensor;

Tensor normals(int64_t rows, int64_t dim, uint64_t key) {
  Tensor out = at::empty({rows, dim}, at::kDouble);
  Random random(key);
  for (int64_t i = 0; i < out.numel(); ++i) out.data_ptr<double>()[i] = random.normal();
  return out;
}
Tensor unit(const Tensor& x) { return x / x.norm(2, {1}, true); }
double difference(const Tensor& a, const Tensor& b) { return (a - b).abs().max().item<double>(); }
Tensor rows_of(const Tensor& all, const Slice& slice) {
  return all.slice(0, slice.begin, slice.end);
}

// ---- Sinkhorn

Tensor golden_scores() {
  return at::tensor({.9, .1, .0, .8, .2, .1, .7, .6, .0, .1, .9, .3}, at::kDouble).view({4, 3});
}

TEST(Sinkhorn, IsTheAuthorsFunction) {
  const auto comm = make_thread_comms(1)[0];
  const Tensor sharp = at::tensor({.980807, .000001, .019192, .483465, .000036, .516499, .271101,
                                   .439274, .289625, .000000, .602654, .397346},
                                  at::kDouble)
                           .view({4, 3});
  const Tensor soft = at::tensor({.524468, .167242, .308289, .425057, .202205, .372738, .315454,
                                  .407920, .276626, .070782, .553720, .375498},
                                 at::kDouble)
                          .view({4, 3});
  EXPECT_LE(difference(sinkhorn(golden_scores().unsqueeze(0), 0.05, 3, *comm)[0], sharp), 1e-6);
  EXPECT_LE(difference(sinkhorn(golden_scores().unsqueeze(0), 0.5, 3, *comm)[0], soft), 1e-6);
}

TEST(Sinkhorn, IsTheSameAtAnyNumberOfRanks) {
  // Two sets at once, shares of unequal size.
  const Tensor scores = at::stack({normals(13, 5, 1), 3 * normals(13, 5, 2)});
  const Tensor whole = sinkhorn(scores, 0.3, 3, *make_thread_comms(1)[0]);
  EXPECT_LE(difference(whole.sum(2), at::ones({2, 13}, at::kDouble)), 1e-12);
  // Three rounds leave the shares of the prototypes near equal.
  EXPECT_LE(difference(whole.sum(1), at::full({2, 5}, 13.0 / 5, at::kDouble)), 0.8);
  EXPECT_LE(difference(sinkhorn(scores, 0.3, 200, *make_thread_comms(1)[0]).sum(1),
                       at::full({2, 5}, 13.0 / 5, at::kDouble)),
            1e-6);
  for (const int size : {2, 3, 4})
    run_thread_ranks(size, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), size);
      const Slice mine = slice_of(13, comm.rank(), size);
      const Tensor own = scores.slice(1, mine.begin, mine.end);
      EXPECT_LE(difference(sinkhorn(own, 0.3, 3, comm), whole.slice(1, mine.begin, mine.end)),
                1e-12);
    });
}

TEST(Sinkhorn, ScoresOfAnySizeNeitherOverflowNorVanish) {
  const auto comm = make_thread_comms(1)[0];
  // exp(1e4) overflows, exp(-1e4) vanishes, also where a whole row or a prototype does.
  Tensor scores = normals(6, 4, 3).to(at::kFloat).unsqueeze(0) * 500;
  scores[0][2] -= 5000;
  scores[0].select(1, 3) -= 9000;
  const Tensor found = sinkhorn(scores, 0.05, 3, *comm);
  EXPECT_EQ(found.scalar_type(), at::kFloat);
  EXPECT_TRUE(found.isfinite().all().item<bool>());
  EXPECT_LE(difference(found.sum(2), at::ones({1, 6})), 1e-5);
  expect_error([&] { sinkhorn(scores[0], 0.05, 3, *comm); }, {"[sets, rows, prototypes]"});
}

// ---- contrast

const Tensor kOne = at::tensor({1., 0., 0., 1.}, at::kDouble).view({2, 2});
const Tensor kTwo = at::tensor({1., .2, .3, 1.}, at::kDouble).view({2, 2});

TEST(Contrast, GoldenVectors) {
  const Tensor a = unit(kOne), b = unit(kTwo);
  const double nt =
      (nt_xent(a, a, b, 0, 0.1).mean() + nt_xent(b, b, a, 0, 0.1).mean()).item<double>();
  EXPECT_NEAR(nt / 2, 0.00419199, 1e-8);
  EXPECT_NEAR(nt, 0.00838398, 1e-8);
  EXPECT_NEAR(2 * 0.2 * info_nce(a, b, 0, 0.2).mean().item<double>(), 0.01053932, 1e-8);
}

// The mean of both directions over all rows, with gradients to both views.
struct Solution {
  double loss = 0;
  Tensor by_a, by_b;
};

// One loss of two views of all rows, from what each rank holds of them.
using ViewsLoss = std::function<Tensor(const Tensor& a, const Tensor& b, const Slice& mine,
                                       const std::vector<int64_t>& counts, Communicator&)>;

Solution solve(const Tensor& a_all, const Tensor& b_all, int size, const ViewsLoss& loss) {
  Solution all{0, at::full_like(a_all, NAN), at::full_like(b_all, NAN)};
  std::mutex lock;
  const int64_t rows = a_all.size(0);
  run_thread_ranks(size, [&](Communicator& comm) {
    ASSERT_EQ(comm.size(), size);
    const Slice mine = slice_of(rows, comm.rank(), size);
    const Tensor a = rows_of(a_all, mine).clone().set_requires_grad(true);
    const Tensor b = rows_of(b_all, mine).clone().set_requires_grad(true);
    const Tensor sum = loss(a, b, mine, gather_counts(mine.size(), comm), comm).sum();
    (size * sum / static_cast<double>(rows)).backward();
    const std::lock_guard guard(lock);
    all.loss += sum.item<double>() / static_cast<double>(rows);
    rows_of(all.by_a, mine).copy_(a.grad() / size);
    rows_of(all.by_b, mine).copy_(b.grad() / size);
  });
  return all;
}

// NT-Xent over 2 N rows one after the other, as the paper writes it.
Tensor nt_xent_by_loops(const Tensor& a, const Tensor& b, double temperature) {
  const Tensor z = unit(at::cat({a, b}));
  const int64_t n = a.size(0);
  Tensor sum = at::zeros({}, at::kDouble);
  for (int64_t i = 0; i < 2 * n; ++i) {
    Tensor below = at::zeros({}, at::kDouble);
    for (int64_t k = 0; k < 2 * n; ++k)
      if (k != i) below = below + (z[i].dot(z[k]) / temperature).exp();
    sum = sum - z[i].dot(z[(i + n) % (2 * n)]) / temperature + below.log();
  }
  return sum / static_cast<double>(n);
}

TEST(Contrast, NtXentEqualsThePaperAtAnyNumberOfRanks) {
  const Tensor a = normals(11, 4, 5), b = a + normals(11, 4, 6);
  const Tensor x = a.clone().set_requires_grad(true), y = b.clone().set_requires_grad(true);
  const Tensor expected = nt_xent_by_loops(x, y, 0.3);
  expected.backward();
  for (const int size : {1, 2, 3, 4}) {
    const Solution found = solve(a, b, size,
                                 [](const Tensor& one, const Tensor& two, const Slice& mine,
                                    const std::vector<int64_t>& counts, Communicator& comm) {
                                   const Tensor u = unit(one), v = unit(two);
                                   const Tensor u_all = gather_rows(u, counts, comm),
                                                v_all = gather_rows(v, counts, comm);
                                   return nt_xent(u, u_all, v_all, mine.begin, 0.3) +
                                          nt_xent(v, v_all, u_all, mine.begin, 0.3);
                                 });
    EXPECT_NEAR(found.loss, expected.item<double>(), 1e-10) << size;
    EXPECT_LE(difference(found.by_a, x.grad()), 1e-10) << size;
    EXPECT_LE(difference(found.by_b, y.grad()), 1e-10) << size;
  }
}

TEST(Contrast, InfoNceWithConstantKeysEqualsItsFormulaAtAnyNumberOfRanks) {
  const Tensor a = normals(11, 4, 7), b = a + normals(11, 4, 8);
  const Tensor x = a.clone().set_requires_grad(true);
  const Tensor logits = unit(x).matmul(unit(b).t()) / 0.2;
  const Tensor expected = -at::log_softmax(logits, 1).diagonal().mean();
  expected.backward();
  for (const int size : {1, 2, 3, 4}) {
    const Solution found =
        solve(a, b, size,
              [](const Tensor& one, const Tensor& two, const Slice& mine,
                 const std::vector<int64_t>& counts, Communicator& comm) {
                const Tensor keys = gather_rows_detached(unit(two).detach(), counts, comm);
                return info_nce(unit(one), keys, mine.begin, 0.2) + 0 * two.sum(1);
              });
    EXPECT_NEAR(found.loss, expected.item<double>(), 1e-12) << size;
    EXPECT_LE(difference(found.by_a, x.grad()), 1e-12) << size;
    EXPECT_EQ(found.by_b.abs().max().item<double>(), 0) << "keys are constants";
  }
}

TEST(Contrast, RowsOutsideTheColumnsAreRefused) {
  const Tensor a = unit(normals(3, 2, 1));
  expect_error([&] { info_nce(a, a, 1, 0.1); }, {"3 own rows", "first at 1"});
}

TEST(NegativeCosine, IsMinusTheCosineAndTheTargetIsConstant) {
  const Tensor p = normals(5, 3, 9).set_requires_grad(true),
               z = normals(5, 3, 10).set_requires_grad(true);
  const Tensor found = negative_cosine(p, z);
  found.sum().backward();
  EXPECT_LE(difference(found, -(unit(p) * unit(z)).sum(1)), 1e-12);
  EXPECT_FALSE(z.grad().defined());
  EXPECT_GT(p.grad().abs().max().item<double>(), 1e-3);
}

TEST(KoLeo, IsMinusTheLogOfTheNearestDistance) {
  const Tensor x = unit(normals(7, 3, 11));
  const Tensor found = koleo(x, x, 0);
  for (int64_t i = 0; i < 7; ++i) {
    double nearest = INFINITY;
    for (int64_t j = 0; j < 7; ++j)
      if (j != i) nearest = std::min(nearest, (x[i] - x[j]).norm().item<double>());
    EXPECT_NEAR(found[i].item<double>(), -std::log(nearest), 1e-6);
  }
  for (const int size : {2, 3})
    run_thread_ranks(size, [&](Communicator& comm) {
      const Slice mine = slice_of(7, comm.rank(), size);
      const Tensor own = rows_of(x, mine).clone().set_requires_grad(true);
      const Tensor all = gather_rows(own, gather_counts(mine.size(), comm), comm);
      EXPECT_LE(difference(koleo(own, all, mine.begin), rows_of(found, mine)), 1e-12);
    });
  // Equal rows: large, not infinite, and with a finite gradient.
  const Tensor twins = at::ones({2, 3}, at::kDouble).div(std::sqrt(3)).set_requires_grad(true);
  koleo(twins, twins, 0).sum().backward();
  EXPECT_TRUE(twins.grad().isfinite().all().item<bool>());
  expect_error([&] { koleo(x.narrow(0, 0, 1), x.narrow(0, 0, 1), 0); }, {"two rows"});
}

// ---- gradient reversal

TEST(GradientReversal, TurnsTheGradientAndNothingElse) {
  const Tensor x = normals(3, 2, 20).set_requires_grad(true);
  const Tensor y = reverse_gradient(x, 0.7);
  EXPECT_TRUE(y.equal(x));
  (y * y).sum().backward();
  EXPECT_LE(difference(x.grad(), -0.7 * 2 * x.detach()), 1e-12);
}

// ---- self-distillation

TEST(SelfDistillation, CrossEntropyAgainstATeacher) {
  const Tensor s = normals(6, 5, 12).set_requires_grad(true),
               t = normals(6, 5, 13).set_requires_grad(true);
  const Tensor centre = at::arange(5, at::kDouble) / 5;
  const Tensor target = centred_softmax(t, centre, 0.04);
  const Tensor wanted = ((t.detach() - centre) / 0.04).exp();
  EXPECT_LE(difference(target, wanted / wanted.sum(1, true)), 1e-12);
  EXPECT_FALSE(target.requires_grad());
  const Tensor loss = soft_cross_entropy(s, target, 0.1);
  EXPECT_LE(difference(loss, -(target * ((s / 0.1) - (s / 0.1).exp().sum(1, true).log())).sum(1)),
            1e-10);
  loss.sum().backward();
  // d/ds = (softmax(s / T) - target) / T
  EXPECT_LE(difference(s.grad(), (at::softmax(s.detach() / 0.1, 1) - target) / 0.1), 1e-10);
}

TEST(SelfDistillation, TheCentreIsTheMeanOverAllRanks) {
  const Tensor logits = normals(11, 4, 14), start = at::arange(4, at::kDouble);
  const Tensor expected = 0.9 * start + 0.1 * logits.mean(0);
  for (const int size : {1, 2, 3, 4})
    run_thread_ranks(size, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), size);
      Tensor centre = start.clone();
      update_centre(centre, rows_of(logits, slice_of(11, comm.rank(), size)), 0.9, comm);
      EXPECT_LE(difference(centre, expected), 1e-12);
    });
}

}  // namespace
}  // namespace facetrain
