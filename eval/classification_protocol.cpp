// The protocol `classification`: a network whose outputs are one number a class (recipe
// classification), held to a label column.
#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "eval/protocol.h"

namespace facetrain {
namespace {

struct ClassificationOptions : ProtocolOptions {
  std::string column;
  void fields(auto& f) {
    ProtocolOptions::fields(f);
    f("column", column, "label column of the classes (expression); empty: the identity");
  }
};

class ClassificationProtocol final : public Protocol {
 public:
  explicit ClassificationProtocol(const ClassificationOptions& options)
      : Protocol(options), column_(options.column) {}

  bool grouped() const override { return true; }

  std::vector<std::vector<int64_t>> prepare(std::vector<SetContents> sets) override {
    const SetContents& set = sets.front();
    FT_CHECK(set.numbers,
             "{}: wanted a set of images with a label column, found a file of embeddings",
             set.path);
    std::vector<int64_t> used;
    const auto numbers = set.numbers(column_.empty() ? "identity" : column_);
    for (size_t row = 0; row < numbers.size(); ++row) {
      if (numbers[row] < 0) continue;
      used.push_back(static_cast<int64_t>(row));
      classes_.push_back(numbers[row]);
    }
    FT_CHECK(!used.empty(), "{}: no image has a label in the column '{}'", set.path, column_);
    path_ = set.path;
    return {used};
  }

  Evaluation evaluate(std::span<const at::Tensor> rows, Communicator&) const override {
    const at::Tensor& scores = rows.front();
    const at::Tensor truth = at::tensor(classes_, at::kLong);
    FT_CHECK(truth.max().item<int64_t>() < scores.size(1),
             "{}: has the class {}, the network's outputs are {} classes: is it a classifier of "
             "this column?",
             path_, truth.max().item<int64_t>(), scores.size(1));
    const at::Tensor right = scores.argmax(1).eq(truth).to(at::kDouble);
    // The mean of the classes' own accuracies, over those that occur.
    const at::Tensor sums = at::zeros({scores.size(1)}, at::kDouble).index_add(0, truth, right);
    const at::Tensor counts = at::bincount(truth, {}, scores.size(1)).to(at::kDouble);
    const at::Tensor present = counts > 0;
    const double accuracy = right.mean().item<double>();
    const double balanced =
        (sums.masked_select(present) / counts.masked_select(present)).mean().item<double>();
    Evaluation evaluation;
    evaluation.figures = {{"accuracy", accuracy}, {"balanced_accuracy", balanced}};
    evaluation.text =
        fmt::format("classification of {} images: accuracy {:.6f} balanced {:.6f} ({} classes)\n",
                    truth.size(0), accuracy, balanced, present.sum().item<int64_t>());
    evaluation.json =
        std::make_shared<nlohmann::json>(nlohmann::json{{"protocol", "classification"},
                                                        {"rows", truth.size(0)},
                                                        {"accuracy", accuracy},
                                                        {"balanced_accuracy", balanced}});
    return evaluation;
  }

 private:
  std::string column_, path_;
  std::vector<int64_t> classes_;  // of the used rows
};

const bool registered = Protocols::get().add<ClassificationProtocol, ClassificationOptions>(
    "classification", "accuracy of a network with one output a class (recipe classification)");

}  // namespace
}  // namespace facetrain
