// Nearest neighbour: the share of images whose nearest other image is of the same person.
#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "eval/norms.h"
#include "eval/protocol.h"

namespace facetrain {
namespace {

struct NeighbourOptions : ProtocolOptions {
  void fields(auto& f) { ProtocolOptions::fields(f); }
};

class Neighbour final : public Protocol {
 public:
  explicit Neighbour(const NeighbourOptions& options) : Protocol(options) {}

  bool labelled() const override { return true; }

  std::vector<std::vector<int64_t>> prepare(std::vector<SetContents> sets) override {
    people_ = std::move(sets.front().identities);
    FT_CHECK(people_.size() >= 2, "protocol 'neighbour': wanted at least two images, found {}",
             people_.size());
    return {{}};  // all rows of the one set
  }

  Evaluation evaluate(std::span<const at::Tensor> rows, Communicator&) const override {
    check_directions(rows.front(), {});
    const at::Tensor unit = rows.front() / rows.front().norm(2, 1, true);
    at::Tensor cosines = unit.mm(unit.t());
    cosines.fill_diagonal_(-2);
    const at::Tensor nearest = cosines.argmax(1);
    double right = 0;
    for (size_t i = 0; i < people_.size(); ++i)
      right += people_[i] == people_[nearest.const_data_ptr<int64_t>()[i]];
    const double share = right / static_cast<double>(people_.size());
    Evaluation evaluation;
    evaluation.figures["accuracy"] = share;
    evaluation.text = fmt::format("nearest neighbour  {:.4f}\n", share);
    evaluation.json = std::make_shared<nlohmann::json>(nlohmann::json{{"accuracy", share}});
    return evaluation;
  }

 private:
  std::vector<std::string> people_;
};

const bool registered = Protocols::get().add<Neighbour, NeighbourOptions>(
    "neighbour", "is the nearest other image of the same person?");

}  // namespace
}  // namespace facetrain
