// The protocol `knn`: classes of a test set by votes of the nearest embeddings of a training set.
// Wu et al. 2018, arXiv:1805.01978, as DINO evaluates (Caron et al. 2021, arXiv:2104.14294).
#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "comm/collectives.h"
#include "eval/norms.h"
#include "eval/protocol.h"

namespace facetrain {
namespace {

constexpr int64_t kBlock = 256;  // test rows at once

struct KnnOptions : ProtocolOptions {
  std::string train, column;
  std::vector<int64_t> neighbours = {10, 20, 100, 200};
  double temperature = 0.07;
  void fields(auto& f) {
    ProtocolOptions::fields(f);
    f("train", train, "set whose embeddings vote; `path` is the set that is classified");
    f("column", column, "label column that is guessed (expression); empty: the identity");
    f("neighbours", neighbours, "numbers of votes to print, as 10,20,100,200");
    f("temperature", temperature, range(1e-4, 1e4), "a vote weighs exp(cosine / temperature)");
  }
};

class KnnProtocol final : public Protocol {
 public:
  explicit KnnProtocol(const KnnOptions& options) : Protocol(options), options_(options) {
    FT_CHECK(!options_.train.empty() && !options_.path.empty(),
             "protocol 'knn': wanted a set that votes (train) and one that is classified (path), "
             "found '{}' and '{}'",
             options_.train, options_.path);
    FT_CHECK(!options_.neighbours.empty() &&
                 *std::min_element(options_.neighbours.begin(), options_.neighbours.end()) >= 1,
             "protocol 'knn': wanted numbers of votes >= 1 (neighbours)");
  }

  bool labelled() const override { return options_.column.empty(); }
  bool grouped() const override { return !options_.column.empty(); }
  std::vector<std::string> paths() const override { return {options_.train, options_.path}; }

  std::vector<std::vector<int64_t>> prepare(std::vector<SetContents> sets) override {
    std::map<std::string, int64_t> classes;
    std::vector<std::vector<int64_t>> used(2);
    for (size_t k = 0; k < 2; ++k) {
      const auto labels = labels_of_set(sets[k]);
      for (size_t row = 0; row < labels.size(); ++row) {
        if (labels[row].empty()) continue;  // not known
        used[k].push_back(static_cast<int64_t>(row));
        const auto next = static_cast<int64_t>(classes.size());
        classes_[k].push_back(classes.try_emplace(labels[row], next).first->second);
      }
      FT_CHECK(!used[k].empty(), "{}: no image has a label to vote with or to be guessed",
               sets[k].path);
    }
    number_of_classes_ = static_cast<int64_t>(classes.size());
    return used;
  }

  Evaluation evaluate(std::span<const at::Tensor> rows, Communicator& comm) const override {
    const at::Tensor train = unit(rows[0]), test = unit(rows[1]);
    const Slice mine = slice_of(test.size(0), comm.rank(), comm.size());
    const at::Tensor right =
        at::zeros({static_cast<int64_t>(options_.neighbours.size())}, at::kLong);
    for (int64_t begin = mine.begin; begin < mine.end; begin += kBlock)
      count_right(train, test, begin, std::min(begin + kBlock, mine.end), right);
    comm.all_reduce(right, ReduceOp::kSum).wait();
    return report(right, train.size(0), test.size(0));
  }

 private:
  std::vector<std::string> labels_of_set(const SetContents& set) const {
    if (options_.column.empty()) {
      FT_CHECK(!set.identities.empty(), "{}: wanted a labelled set, found none", set.path);
      return set.identities;
    }
    FT_CHECK(set.labels,
             "{}: column {} wants a set of images that has this label column, found a file of "
             "embeddings",
             set.path, options_.column);
    std::vector<int64_t> all(static_cast<size_t>(set.size));
    for (size_t k = 0; k < all.size(); ++k) all[k] = static_cast<int64_t>(k);
    return set.labels(options_.column, all);
  }

  static at::Tensor unit(const at::Tensor& rows) {
    check_directions(rows, {}, {});
    const at::Tensor x = rows.to(at::kDouble);
    return x / x.norm(2, {1}, true);
  }

  // Adds to right[k] how many of the test rows [begin, end) neighbours[k] votes get right. Of equal
  // cosines the earlier row is nearer, of equal sums of votes the class that came first.
  void count_right(const at::Tensor& train, const at::Tensor& test, int64_t begin, int64_t end,
                   const at::Tensor& right) const {
    const at::Tensor cosines = test.slice(0, begin, end).matmul(train.t());
    const auto [sorted, order] = cosines.sort(/*stable=*/true, 1, /*descending=*/true);
    const at::Tensor classes = at::tensor(classes_[0], at::kLong).take(order);
    const at::Tensor truth = at::tensor(classes_[1], at::kLong).slice(0, begin, end);
    for (size_t k = 0; k < options_.neighbours.size(); ++k) {
      const int64_t votes = std::min(options_.neighbours[k], train.size(0));
      const at::Tensor weights = (sorted.narrow(1, 0, votes) / options_.temperature).exp();
      const at::Tensor sums = at::zeros({end - begin, number_of_classes_}, at::kDouble)
                                  .scatter_add(1, classes.narrow(1, 0, votes), weights);
      right[static_cast<int64_t>(k)] += sums.argmax(1).eq(truth).sum();
    }
  }

  Evaluation report(const at::Tensor& right, int64_t train, int64_t test) const {
    Evaluation evaluation;
    evaluation.json = std::make_shared<nlohmann::json>(
        nlohmann::json{{"protocol", "knn"},
                       {"train", options_.train},
                       {"rows", {train, test}},
                       {"column", options_.column.empty() ? "identity" : options_.column}});
    evaluation.text = fmt::format("knn {} of {} by {} rows, {} classes\n",
                                  options_.column.empty() ? "identity" : options_.column, test,
                                  train, number_of_classes_);
    for (size_t k = 0; k < options_.neighbours.size(); ++k) {
      const double share =
          right[static_cast<int64_t>(k)].item<double>() / static_cast<double>(test);
      const std::string name = fmt::format("knn{}", options_.neighbours[k]);
      evaluation.figures[name] = share;
      (*evaluation.json)["accuracy"][name] = share;
      evaluation.text += fmt::format("{} {:.6f}\n", name, share);
    }
    return evaluation;
  }

  KnnOptions options_;
  std::vector<int64_t> classes_[2];  // of the used rows of train and path
  int64_t number_of_classes_ = 0;
};

const bool registered = Protocols::get().add<KnnProtocol, KnnOptions>(
    "knn", "classes by votes of the nearest embeddings of a training set");

}  // namespace
}  // namespace facetrain
