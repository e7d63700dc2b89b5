// The statistics that margins keep: buffers of the classifier that change at commit only, over the
// rows of all ranks, one update a micro-batch.
#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "comm/thread_comm.h"
#include "tests/unit/losses/classifier_problem.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

const char* const kStateful[] = {"adacos", "adaface", "curricularface"};

std::shared_ptr<Margin> make(const std::string& name) {
  return Margins::get().create(Config::parse("{name: " + name + "}"));
}

// One rank, ten classes, float64.
struct Fixture {
  explicit Fixture(const std::string& name)
      : comm(make_thread_comms(1)[0]), classifier(options(), 8, make(name), *comm, 1) {
    classifier.to(torch::kDouble);
  }
  static ClassifierOptions options() {
    ClassifierOptions all;
    all.classes = 10;
    return all;
  }
  // A forward of rows [begin, end).
  void see(const Problem& problem, int64_t begin, int64_t end) {
    classifier.forward(problem.x.slice(0, begin, end), problem.label.slice(0, begin, end),
                       torch::arange(begin, end));
  }
  std::vector<Tensor> buffers() const {
    std::vector<Tensor> all;
    for (const auto& buffer : classifier.buffers()) all.push_back(buffer.clone());
    return all;
  }
  double buffer(const std::string& name) const {
    return classifier.named_buffers()["margin." + name].item<double>();
  }
  std::shared_ptr<Communicator> comm;
  ShardedClassifier classifier;
};

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  EXPECT_EQ(a.size(), b.size());
  bool all = true;
  for (size_t i = 0; i < a.size(); ++i) all = all && torch::equal(a[i], b[i]);
  return all;
}

TEST(MarginState, IsOfTheseMarginsAlone) {
  std::vector<std::string> found;
  for (const std::string& name : Margins::get().names())
    if (!make(name)->buffers().empty()) found.push_back(name);
  EXPECT_EQ(found, std::vector<std::string>(std::begin(kStateful), std::end(kStateful)));
}

TEST(MarginState, ChangesAtCommitOnly) {
  const Problem problem = make_problem(6, 10, 8, 2);
  for (const char* name : kStateful) {
    SCOPED_TRACE(name);
    Fixture f(name);
    const std::vector<Tensor> before = f.buffers();
    ASSERT_FALSE(before.empty());
    f.see(problem, 0, 6);
    EXPECT_TRUE(same(f.buffers(), before));
    f.classifier.margin().discard();
    f.classifier.margin().commit();  // nothing is left
    EXPECT_TRUE(same(f.buffers(), before));
    f.see(problem, 0, 6);
    f.classifier.margin().commit();
    for (size_t i = 0; i < before.size(); ++i)
      EXPECT_FALSE(torch::equal(f.buffers()[i], before[i]));
    std::vector<Tensor> averaged;
    f.classifier.margin().collect(averaged);  // equal on all ranks as they are
    EXPECT_TRUE(averaged.empty());
  }
}

TEST(MarginState, MicroBatchesAreUpdatesInTheirOrder) {
  const Problem problem = make_problem(12, 10, 8, 2);
  for (const char* name : kStateful) {
    SCOPED_TRACE(name);
    Fixture together(name), apart(name), other_order(name);
    for (const int64_t begin : {0, 4, 8}) {
      together.see(problem, begin, begin + 4);
      apart.see(problem, begin, begin + 4);
      apart.classifier.margin().commit();
    }
    together.classifier.margin().commit();
    EXPECT_TRUE(same(together.buffers(), apart.buffers()));
    for (const int64_t begin : {8, 4, 0}) other_order.see(problem, begin, begin + 4);
    other_order.classifier.margin().commit();
    EXPECT_FALSE(same(together.buffers(), other_order.buffers()));
  }
}

TEST(MarginState, KeepsNothingInEvaluation) {
  const Problem problem = make_problem(6, 10, 8, 2);
  for (const char* name : kStateful) {
    SCOPED_TRACE(name);
    Fixture f(name);
    const std::vector<Tensor> before = f.buffers();
    f.classifier.eval();
    f.see(problem, 0, 6);
    f.classifier.margin().commit();
    EXPECT_TRUE(same(f.buffers(), before));
  }
}

TEST(MarginState, IsOverTheRowsOfAllRanksAndEqualOnThem) {
  const Problem problem = make_problem(11, 10, 8, 2);
  for (const char* name : kStateful) {
    SCOPED_TRACE(name);
    Fixture alone(name);
    alone.see(problem, 0, 11);
    alone.classifier.margin().commit();
    for (const int size : {2, 3, 4}) {
      std::vector<std::vector<Tensor>> of_ranks(size);
      run_thread_ranks(size, [&](Communicator& comm) {
        ASSERT_EQ(comm.size(), size);
        ShardedClassifier classifier(Fixture::options(), 8, make(name), comm, 1);
        classifier.to(torch::kDouble);
        const Slice mine = slice_of(11, comm.rank(), size);
        classifier.forward(problem.x.slice(0, mine.begin, mine.end),
                           problem.label.slice(0, mine.begin, mine.end),
                           torch::arange(mine.begin, mine.end));
        classifier.margin().commit();
        of_ranks[comm.rank()] = classifier.buffers();
      });
      for (const auto& buffers : of_ranks) {
        EXPECT_TRUE(same(buffers, of_ranks[0]));
        for (size_t i = 0; i < buffers.size(); ++i)
          EXPECT_LE(difference(buffers[i], alone.buffers()[i]), 1e-12);
      }
    }
  }
}

// Two batches by hand: t <- 0.01 mean + 0.99 t from 0; norms 20 and 100 move likewise; AdaCos
// takes what the batch says, whatever was before.
TEST(MarginState, FollowsItsRecurrence) {
  const Problem problem = make_problem(8, 10, 8, 2);
  const Tensor norm = problem.x.norm(2, 1).clamp(0.001, 100);
  const auto of = [](const Tensor& all, int64_t half) {
    return all.slice(0, 4 * half, 4 * half + 4);
  };

  Fixture ada("adaface");
  double mean = 20, deviation = 100;
  for (const int64_t half : {0, 1}) {
    ada.see(problem, 4 * half, 4 * half + 4);
    ada.classifier.margin().commit();
    mean = 0.01 * of(norm, half).mean().item<double>() + 0.99 * mean;
    deviation = 0.01 * of(norm, half).std().item<double>() + 0.99 * deviation;
    EXPECT_NEAR(ada.buffer("batch_mean"), mean, 1e-10);
    EXPECT_NEAR(ada.buffer("batch_std"), deviation, 1e-10);
  }

  Fixture curricular("curricularface"), cosine("adacos");
  const Tensor rows = curricular.classifier.weight.detach();
  const Tensor cosines =
      (problem.x / problem.x.norm(2, 1, true)).mm((rows / rows.norm(2, 1, true)).t());
  const Tensor own = cosines.gather(1, problem.label.unsqueeze(1)).squeeze(1);
  double t = 0, scale = std::sqrt(2.0) * std::log(9.0);
  for (const int64_t half : {0, 1}) {
    curricular.see(problem, 4 * half, 4 * half + 4);
    cosine.see(problem, 4 * half, 4 * half + 4);
    curricular.classifier.margin().commit();
    cosine.classifier.margin().commit();
    t = 0.01 * of(own, half).mean().item<double>() + 0.99 * t;
    const Tensor others = (scale * of(cosines, half)).exp().sum(1) - (scale * of(own, half)).exp();
    const double angle = std::min(M_PI / 4, of(own, half).acos().median().item<double>());
    scale = std::log(others.mean().item<double>()) / std::cos(angle);
    EXPECT_NEAR(curricular.buffer("t"), t, 1e-12);
    EXPECT_NEAR(cosine.buffer("scale"), scale, 1e-10);
  }
}

}  // namespace
}  // namespace facetrain::testing
