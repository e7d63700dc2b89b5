// Weights from files of others: where their names stand, what is left over, and their colours.
#include "models/init_weights.h"

#include <gtest/gtest.h>
#include <torch/serialize.h>
#include <unistd.h>

#include "core/safetensors.h"
#include "models/backbone.h"
#include "tests/support/error_of.h"
#include "tests/support/pth_bytes.h"

namespace facetrain {
namespace {

using torch::Tensor;

class LoadWeightsTest : public testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(file_); }
  static std::shared_ptr<Backbone> make(uint64_t seed, const std::string& name = "iresnet18") {
    const auto section =
        Config::parse("name: " + name + "\nwidth: 0.03125\nembedding: 4\ndropout: 0\n");
    return create_backbone(section, {.seed = seed, .image_size = 16});
  }
  static NamedTensors state(torch::nn::Module& network, const std::string& prefix = "") {
    NamedTensors all;
    for (const auto& item : network.named_parameters())
      all.emplace_back(prefix + item.key(), item.value().detach());
    for (const auto& item : network.named_buffers())
      all.emplace_back(prefix + item.key(), item.value());
    return all;
  }
  static bool same(torch::nn::Module& a, torch::nn::Module& b) {
    const auto first = state(a), second = state(b);
    for (size_t i = 0; i < first.size(); ++i)
      if (!first[i].second.equal(second[i].second)) return false;
    return first.size() == second.size();
  }
  // Written by LibTorch as {table: {name: tensor}}, or {name: tensor} when `table` is empty.
  void write_pth(const NamedTensors& tensors, const std::string& table) const {
    c10::Dict<std::string, Tensor> inner;
    for (const auto& [name, tensor] : tensors) inner.insert(name, tensor);
    c10::Dict<std::string, c10::Dict<std::string, Tensor>> outer;
    outer.insert(table, inner);
    const auto bytes = table.empty() ? torch::pickle_save(inner) : torch::pickle_save(outer);
    write_bytes(file_, {bytes.begin(), bytes.end()});
  }
  std::filesystem::path file_ =
      std::filesystem::path(testing::TempDir()) / fmt::format("load_weights_{}.pth", getpid());
};

TEST_F(LoadWeightsTest, FindsThePrefixWhateverItsWords) {
  const auto from = make(1);
  for (const std::string table : {"", "state_dict", "model", "state_dict_backbone"})
    for (const std::string prefix :
         {"", "module.", "model.", "net.", "backbone.", "module.backbone.net."}) {
      const auto to = make(2);
      ASSERT_FALSE(same(*from, *to));
      auto tensors = state(*from, prefix);
      if (!prefix.empty()) tensors.emplace_back("loss.kernel", torch::zeros({4, 10}));
      tensors.emplace_back(prefix + "head.weight", torch::zeros({10, 4}));
      tensors.emplace_back(prefix + "classifier.bias", torch::zeros({10}));
      write_pth(tensors, table);
      const auto report = load_weights(*to, file_, /*strict=*/true);
      EXPECT_EQ(report.prefix, (table.empty() ? "" : table + ".") + prefix);
      EXPECT_EQ(report.loaded, static_cast<int64_t>(state(*from).size()));
      EXPECT_EQ(report.ignored.size(), prefix.empty() ? 2u : 3u);
      EXPECT_FALSE(report.turned);
      EXPECT_TRUE(same(*from, *to)) << table << " " << prefix;
    }
}

// A checkpoint of ours with averages, and a teacher beside its student.
TEST_F(LoadWeightsTest, OfSeveralCopiesTheWholeThenTheShortestIsTaken) {
  const auto from = make(1), other = make(3);
  auto tensors = state(*from, "backbone.");
  for (const auto& item : other->named_parameters())
    tensors.emplace_back("ema.backbone." + item.key(), item.value().detach());
  write_pth(tensors, "");
  auto to = make(2);
  EXPECT_EQ(load_weights(*to, file_, true).prefix, "backbone.");
  EXPECT_TRUE(same(*from, *to));
  tensors = state(*from, "student.");
  for (const auto& entry : state(*other, "zteacher.")) tensors.push_back(entry);
  write_pth(tensors, "");
  const auto report = load_weights(*to, file_, true);
  EXPECT_EQ(report.prefix, "student.");
  EXPECT_EQ(report.ignored.size(), state(*other).size());
}

TEST_F(LoadWeightsTest, SaysWhatDoesNotFitAndChangesNothing) {
  const auto from = make(1, "ir_18"), to = make(2, "iresnet18"), before = make(2, "iresnet18");
  write_pth(state(*from, "model."), "state_dict");
  expect_error([&] { load_weights(*to, file_, true); },
               {"no tensor of this file belongs to the network", "missing: bn1.bias",
                "unexpected: state_dict.model.body.0.res_layer.0.bias", "more"});
  EXPECT_THROW(load_weights(*to, file_, false), Error);
  auto tensors = state(*make(1));
  tensors.emplace_back("layer5.0.weight", torch::zeros({1}));
  write_pth(tensors, "state_dict");
  expect_error([&] { load_weights(*to, file_, true); },
               {"1 unexpected: state_dict.layer5.0.weight", "model.strict=false"});
  EXPECT_TRUE(same(*to, *before));
}

TEST_F(LoadWeightsTest, ADamagedTensorChangesNothing) {
  const auto to = make(2), before = make(2);
  write_pth(state(*make(1)), "");
  std::string bytes;
  {
    std::ifstream in(file_, std::ios::binary);
    bytes.assign(std::istreambuf_iterator<char>(in), {});
  }
  // One bit of fc.weight, wherever it lies.
  const auto weight = make(1)->named_parameters()["fc.weight"];
  const auto at =
      bytes.find(std::string(static_cast<const char*>(weight.const_data_ptr()), weight.nbytes()));
  ASSERT_NE(at, std::string::npos);
  bytes[at] = static_cast<char>(bytes[at] ^ 1);
  write_bytes(file_, bytes);
  expect_error([&] { load_weights(*to, file_, true); }, {"tensor 'fc.weight'", "checksum"});
  EXPECT_TRUE(same(*to, *before));
}

TEST_F(LoadWeightsTest, TypesAreCast) {
  const auto from = make(1), to = make(2);
  auto tensors = state(*from);
  for (auto& [name, tensor] : tensors)
    if (tensor.is_floating_point()) tensor = tensor.to(torch::kHalf);
  write_pth(tensors, "");
  load_weights(*to, file_, true);
  for (const auto& item : to->named_parameters()) {
    EXPECT_EQ(item.value().scalar_type(), torch::kFloat);
    EXPECT_TRUE(at::allclose(item.value(), from->named_parameters()[item.key()], 1e-3, 1e-4));
  }
}

// The network of a BGR file sees RGB, and answers as the original does for the same picture.
TEST_F(LoadWeightsTest, WeightsForBgrTakeRgb) {
  for (const std::string name : {"iresnet18", "mobilefacenet", "ir_18"}) {
    const auto from = make(1, name), to = make(2, name);
    from->eval();
    to->eval();
    save_safetensors(file_, state(*from));
    const auto report = load_weights(*to, file_, true, ColorOrder::kBgr);
    EXPECT_TRUE(report.turned);
    auto rgb = torch::empty({2, 3, 16, 16});
    init_uniform(rgb, 5, "images", -1, 1);
    const auto expected = from->forward(rgb.flip(1)).embedding;
    const auto found = to->forward(rgb).embedding;
    EXPECT_LE((found - expected).abs().max().item<double>(),
              1e-5 * expected.abs().max().item<double>());
    EXPECT_GT((from->forward(rgb).embedding - expected).abs().max().item<double>(),
              1e-3 * expected.abs().max().item<double>());
  }
  const auto section = Config::parse(
      "name: ir_18\nwidth: 0.03125\nembedding: 4\ncolor_order: bgr\ninit: " + file_.string());
  const auto from = make(1, "ir_18");  // file_ holds its weights
  EXPECT_TRUE(create_backbone(section, {.seed = 2, .image_size = 16})
                  ->named_parameters()["input_layer.0.weight"]
                  .equal(from->named_parameters()["input_layer.0.weight"].flip(1)));
}

}  // namespace
}  // namespace facetrain
