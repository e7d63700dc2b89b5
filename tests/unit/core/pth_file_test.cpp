// .pth files: those that LibTorch's own pickler writes, and those made opcode by opcode. Files of
// the real torch.save: tests/e2e/test_weights_in.py.
#include "core/pth_file.h"

#include <gtest/gtest.h>
#include <torch/serialize.h>
#include <unistd.h>

#include "core/safetensors.h"
#include "core/torch.h"
#include "tests/support/error_of.h"
#include "tests/support/pth_bytes.h"

namespace facetrain {
namespace {

using pickled::call;
using pickled::dict;
using pickled::global;
using pickled::integer;
using pickled::storage;
using pickled::tensor;
using pickled::text;
using pickled::whole;

std::string numbers(std::initializer_list<float> values) {
  std::string bytes;
  for (const float value : values) bytes += little_endian(value);
  return bytes;
}

class PthFileTest : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& bytes) const { return write_bytes(file_, bytes); }
  // The error of a file with this pickle and one storage '0' of 6 floats.
  void refuse(const std::string& value, std::initializer_list<std::string_view> parts) const {
    write(pth_bytes(whole(value), {{"0", kSix}}));
    expect_error([&] { open_weights_file(file_); }, {file_.string()});
    expect_error([&] { open_weights_file(file_); }, parts);
  }
  void TearDown() override { std::filesystem::remove(file_); }
  const std::string kSix = numbers({0, 1, 2, 3, 4, 5});
  const std::string kFloats = storage("FloatStorage", "0", 6);
  std::filesystem::path file_ =
      std::filesystem::path(testing::TempDir()) / ("pth_file_" + std::to_string(getpid()) + ".pth");
};

TEST_F(PthFileTest, ReadsWhatLibTorchPickles) {
  c10::Dict<std::string, torch::Tensor> table;
  const auto values = torch::arange(12).reshape({3, 4});
  for (const auto dtype : {torch::kFloat, torch::kDouble, torch::kHalf, torch::kBFloat16,
                           torch::kLong, torch::kInt, torch::kShort, torch::kChar, torch::kByte})
    table.insert(c10::toString(dtype), values.to(dtype));
  table.insert("bool", values.gt(5));
  table.insert("transposed", values.to(torch::kFloat).t());
  table.insert("row", values.to(torch::kFloat)[1]);
  table.insert("scalar", torch::tensor(2.5));
  table.insert("empty", torch::zeros({0, 3}));
  const std::vector<char> bytes = torch::pickle_save(table);
  write({bytes.begin(), bytes.end()});
  const auto file = open_weights_file(file_);
  EXPECT_EQ(file->tensors().size(), table.size());
  for (const auto& item : table) {
    const auto found = file->read(item.key());
    EXPECT_EQ(found.scalar_type(), item.value().scalar_type()) << item.key();
    EXPECT_TRUE(found.equal(item.value())) << item.key();
    EXPECT_TRUE(found.is_contiguous());
    EXPECT_EQ(file->tensors().at(item.key()).shape, item.value().sizes().vec());
  }
}

TEST_F(PthFileTest, JoinsTheNamesOfTables) {
  const std::string t = tensor(kFloats, 0, {6}, {1});
  const std::string ordered =
      call(global("collections", "OrderedDict"), {}) + "(" + text("w") + t + "u";
  const std::string pairs = call(global("collections", "OrderedDict"),
                                 {"](](" + text("a") + t + "e" + "](" + text("b") + t + "e" + "e"});
  const std::string parameter =
      call(global("torch._utils", "_rebuild_parameter"), {t, "\x88", "}"});
  write(pth_bytes(whole(dict({{"state_dict", ordered},
                              {"old", pairs},
                              {"p", parameter},
                              {"list", "](" + t + "e"},
                              {"epoch", integer(3)},
                              {"args", call(global("argparse", "Namespace"), {})}})),
                  {{"0", kSix}}));
  const auto file = open_weights_file(file_);
  std::vector<std::string> names;
  for (const auto& [name, info] : file->tensors()) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"list.0", "old.a", "old.b", "p", "state_dict.w"}));
  EXPECT_TRUE(file->read("p").equal(torch::arange(6).to(torch::kFloat)));
  write(pth_bytes(whole(t), {{"0", kSix}}));
  EXPECT_TRUE(open_weights_file(file_)->read("tensor").equal(torch::arange(6).to(torch::kFloat)));
}

TEST_F(PthFileTest, MaterialisesViewsOfOneStorage) {
  write(pth_bytes(whole(dict({{"columns", tensor(kFloats, 0, {3, 2}, {1, 3})},
                              {"windows", tensor(kFloats, 1, {3, 3}, {1, 1})},
                              {"repeated", tensor(kFloats, 5, {4}, {0})},
                              {"none", tensor(kFloats, 6, {0}, {1})}})),
                  {{"0", kSix}}));
  const auto file = open_weights_file(file_);
  const auto expect = [&](const std::string& name, const torch::Tensor& values) {
    EXPECT_TRUE(file->read(name).equal(values.to(torch::kFloat))) << name;
  };
  expect("columns", torch::tensor({{0, 3}, {1, 4}, {2, 5}}));
  expect("windows", torch::tensor({{1, 2, 3}, {2, 3, 4}, {3, 4, 5}}));
  expect("repeated", torch::tensor({5, 5, 5, 5}));
  expect("none", torch::zeros({0}));
  file->read("windows").zero_();  // a copy
  expect("windows", torch::tensor({{1, 2, 3}, {2, 3, 4}, {3, 4, 5}}));
}

TEST_F(PthFileTest, ReadsTheFormBefore16) {
  const std::string pickle =
      whole(dict({{"b", tensor(storage("DoubleStorage", "77", 2), 0, {2}, {1})},
                  {"a", tensor(storage("FloatStorage", "9", 6), 2, {2, 2}, {2, 1})}}));
  const std::string two = little_endian(1.5) + little_endian(-2.0);
  const std::string sound = legacy_pth_bytes(pickle, {{"77", two, 2}, {"9", kSix, 6}});
  write(sound);
  const auto file = open_weights_file(file_);
  EXPECT_TRUE(file->read("a").equal(torch::tensor({{2.f, 3.f}, {4.f, 5.f}})));
  EXPECT_TRUE(file->read("b").equal(torch::tensor({1.5, -2.0}, torch::kDouble)));
  for (size_t length = 16; length < sound.size(); ++length)
    expect_error([&] { PthFile(write(sound.substr(0, length))); }, {file_.string()});
  write(legacy_pth_bytes(pickle, {{"77", two, int64_t{1} << 62}, {"9", kSix, 6}}));
  expect_error([&] { open_weights_file(file_); }, {"ends inside storage '77'", "truncated"});
  write(legacy_pth_bytes(pickle, {{"77", two, 2}}));
  expect_error([&] { open_weights_file(file_); }, {"no storage '9'"});
}

TEST_F(PthFileTest, RefusesNamesAndExecutesNothing) {
  for (const auto& [module, name] :
       std::vector<std::pair<std::string, std::string>>{{"os", "system"},
                                                        {"posix", "system"},
                                                        {"builtins", "eval"},
                                                        {"builtins", "getattr"},
                                                        {"subprocess", "Popen"},
                                                        {"torch.hub", "load"},
                                                        {"__main__", "Net"},
                                                        {"torch.nn.modules.conv", "Conv2d"},
                                                        {"torch._utils", "_rebuild_sparse_tensor"},
                                                        {"torch", "QInt8Storage"},
                                                        {"numpy", "load"},
                                                        {"argparse", "FileType"}})
    refuse(dict({{"w", tensor(kFloats, 0, {6}, {1})},
                 {"x", call(global(module, name), {text("touch here")})}}),
           {"asks for " + module + "." + name + ": refused, nothing was executed",
            "torch.save(model.state_dict()"});
  refuse(call(global("__builtin__", "eval"), {text("1")}), {"asks for builtins.eval: refused"});
  // Named, yet never called: the same.
  refuse(global("os", "system"), {"asks for os.system"});
}

TEST_F(PthFileTest, RefusesTensorsThatLeaveTheirStorage) {
  constexpr int64_t kHuge = int64_t{1} << 62;
  const auto wrong = [&](const std::string& value, std::string_view part) {
    refuse(dict({{"w", value}}), {"tensor 'w'", part});
  };
  wrong(tensor(kFloats, 0, {7}, {1}), "reaches to element 6, its storage has 6");
  wrong(tensor(kFloats, 5, {2}, {1}), "reaches to element 6");
  wrong(tensor(kFloats, 0, {2, 2}, {5, 1}), "reaches to element 6");
  wrong(tensor(kFloats, -1, {1}, {1}), "reaches to");
  wrong(tensor(kFloats, 0, {-1}, {1}), "no sizes");
  wrong(tensor(kFloats, 3, {2}, {-1}), "no sizes");
  wrong(tensor(kFloats, 0, {kHuge, kHuge}, {0, 0}), "no sizes");
  wrong(tensor(kFloats, 0, {kHuge}, {kHuge}), "no sizes");
  wrong(tensor(kFloats, kHuge, {2}, {kHuge}), "no sizes");
  wrong(tensor(kFloats, 0, {kHuge}, {0}), "repeats 6 stored elements");
  wrong(tensor(kFloats, 0, {2}, {1, 1}), "other sizes than strides");
  wrong(tensor(storage("FloatStorage", "1", 6), 0, {6}, {1}), "no storage '1'");
  wrong(tensor(storage("DoubleStorage", "0", 6), 0, {6}, {1}), "its storage has 3");
  wrong(tensor(integer(1), 0, {6}, {1}), "no storage");
  wrong(call(global("torch._utils", "_rebuild_tensor_v2"), {kFloats}), "too few values");
  wrong(tensor(kFloats, 0, {}, {}) + "0" +
            call(global("torch._utils", "_rebuild_tensor_v2"),
                 {kFloats, text("x"), pickled::integers({1}), pickled::integers({1})}),
        "whole number");
}

TEST_F(PthFileTest, RefusesOtherFiles) {
  refuse(integer(1), {"holds no tensors"});
  std::string deep = dict({{"w", tensor(kFloats, 0, {6}, {1})}});
  for (int i = 0; i < 40; ++i) deep = dict({{"a", deep}});
  refuse(deep, {"nested more than 32"});
  refuse(dict({{std::string(2000, 'a'), tensor(kFloats, 0, {6}, {1})}}), {"1024 letters"});
  refuse(dict({{"a.b", tensor(kFloats, 0, {6}, {1})},
               {"a", dict({{"b", tensor(kFloats, 0, {6}, {1})}})}}),
         {"two tensors are named 'a.b'"});
  const std::string sound = whole(dict({{"w", tensor(kFloats, 0, {6}, {1})}}));
  const auto refuse_bytes = [&](const std::string& bytes,
                                std::initializer_list<std::string_view> parts) {
    write(bytes);
    expect_error([&] { open_weights_file(file_)->read("w"); }, parts);
  };
  refuse_bytes(zip_bytes({{"a/data.pkl", sound}, {"a/byteorder", "big"}, {"a/data/0", kSix}}),
               {"'big'-endian"});
  refuse_bytes(zip_bytes({{"a/other", sound}}), {"wanted one data.pkl"});
  refuse_bytes(zip_bytes({{"a/data.pkl", sound}, {"b/data.pkl", sound}}), {"found 2"});
  refuse_bytes(zip_bytes({{"a/data.pkl", sound}, {"a/constants.pkl", ""}}),
               {"found a TorchScript module"});
  refuse_bytes(
      zip_bytes({{"a/data.pkl", sound}, {.name = "a/data/0", .bytes = kSix, .crc_error = 1}}),
      {"tensor 'w'", "checksum"});
  refuse_bytes(zip_bytes({{"a/data.pkl", sound}, {.name = "a/data/0", .bytes = kSix, .method = 8}}),
               {"compressed"});
  refuse_bytes("plain text, no weights", {"found neither"});
  refuse_bytes("", {"found neither"});
  refuse_bytes("PK\x03\x04", {"zip archive"});
  EXPECT_THROW(open_weights_file("/nonexistent.pth"), Error);
}

TEST_F(PthFileTest, TheFormatIsToldByTheContent) {
  save_safetensors(file_, {{"w", torch::ones({2})}});
  EXPECT_EQ(weights_format(file_), WeightsFormat::kSafetensors);
  EXPECT_TRUE(open_weights_file(file_)->read("w").equal(torch::ones({2})));
  write(pth_bytes(whole(dict({})), {}));
  EXPECT_EQ(weights_format(file_), WeightsFormat::kPth);
}

// Two tables that hold each other, and one table under two names: every tensor once a table.
TEST_F(PthFileTest, TablesMayBeSharedAndCircular) {
  const std::string t = tensor(kFloats, 0, {6}, {1});
  write(pth_bytes(whole("}q\x01(" + text("w") + t + text("self") + "h\x01" + text("a") + "}q\x02(" +
                        text("v") + t + "u" + text("b") + "h\x02u"),
                  {{"0", kSix}}));
  const auto file = open_weights_file(file_);
  EXPECT_EQ(file->tensors().size(), 2u);
  EXPECT_TRUE(file->tensors().contains("w") && file->tensors().contains("a.v"));
}

}  // namespace
}  // namespace facetrain
