// safetensors files: round trips, row slices, and every way a foreign file or a full disk can be
// wrong.
#include "core/safetensors.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <fstream>

#include "core/check.h"
#include "core/durable_file.h"
#include "core/torch.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

class Safetensors : public testing::Test {
 protected:
  Safetensors() : folder_(fs::path(testing::TempDir()) / fmt::format("safetensors_{}", getpid())) {
    fs::create_directories(folder_);
  }
  ~Safetensors() override { fs::remove_all(folder_); }
  fs::path file(const std::string& name = "t.safetensors") const { return folder_ / name; }
  // A file of any header and data.
  fs::path raw(const std::string& json, size_t data_bytes, int64_t length = -1) const {
    std::ofstream out(file("raw.safetensors"), std::ios::binary);
    const uint64_t size = length < 0 ? json.size() : static_cast<uint64_t>(length);
    out.write(reinterpret_cast<const char*>(&size), 8);
    out << json << std::string(data_bytes, 'x');
    return file("raw.safetensors");
  }
  size_t files_left() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), {}));
  }
  fs::path folder_;
};

NamedTensors every_dtype() {
  NamedTensors tensors;
  const auto values = torch::arange(-6, 6).view({3, 4});
  for (const auto dtype : {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kLong, at::kInt,
                           at::kShort, at::kChar})
    tensors.emplace_back(at::toString(dtype), values.to(dtype));
  tensors.emplace_back("bytes", (values + 6).to(at::kByte));
  tensors.emplace_back("flags", values.gt(0));
  tensors.emplace_back("u64", (values + 6).to(at::kUInt64));
  tensors.emplace_back("scalar", torch::tensor(2.5));
  tensors.emplace_back("empty", torch::zeros({0, 7}));
  return tensors;
}

TEST_F(Safetensors, EveryDtypeComesBack) {
  const auto tensors = every_dtype();
  save_safetensors(file(), tensors, {{"step", "12"}, {"name", "Zoë \"x\""}});
  const SafetensorsFile in(file());
  EXPECT_EQ(in.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const auto back = in.read(name);
    EXPECT_EQ(back.scalar_type(), tensor.scalar_type()) << name;
    EXPECT_EQ(back.sizes(), tensor.sizes()) << name;
    if (tensor.numel() == 0) continue;
    EXPECT_EQ(
        std::memcmp(back.const_data_ptr(), tensor.contiguous().const_data_ptr(), tensor.nbytes()),
        0)
        << name;
  }
  EXPECT_EQ(in.read("scalar").item<float>(), 2.5f);
  EXPECT_EQ(in.metadata().at("name"), "Zoë \"x\"");
  EXPECT_EQ(files_left(), 1u);  // no temporary file
  uint64_t length = 0;
  std::ifstream(file(), std::ios::binary).read(reinterpret_cast<char*>(&length), 8);
  EXPECT_EQ((8 + length) % 64, 0u);
}

TEST_F(Safetensors, StridedAndTrainableTensorsAreWrittenInLogicalOrder) {
  const auto base = torch::arange(120).to(torch::kFloat).view({2, 3, 4, 5});
  const auto last = base.contiguous(at::MemoryFormat::ChannelsLast).requires_grad_();
  save_safetensors(file(), {{"last", last},
                            {"transposed", base[0][0].t()},
                            {"every", base.slice(3, 0, 5, 2)},
                            {"expanded", torch::ones({1}).expand({6})}});
  const SafetensorsFile in(file());
  EXPECT_TRUE(in.read("last").equal(base));
  EXPECT_TRUE(in.read("last").is_contiguous());
  EXPECT_TRUE(in.read("transposed").equal(base[0][0].t()));
  EXPECT_TRUE(in.read("every").equal(base.slice(3, 0, 5, 2)));
  EXPECT_TRUE(in.read("expanded").equal(torch::ones({6})));
}

TEST_F(Safetensors, RowsAreReadAlone) {
  const auto tensor = torch::arange(60).to(torch::kBFloat16).view({10, 3, 2});
  save_safetensors(file(),
                   {{"before", torch::ones({3})}, {"rows", tensor}, {"s", torch::tensor(1)}});
  const SafetensorsFile in(file());
  EXPECT_TRUE(in.read_rows("rows", 0, 10).equal(tensor));
  EXPECT_TRUE(in.read_rows("rows", 3, 7).equal(tensor.slice(0, 3, 7)));
  EXPECT_EQ(in.read_rows("rows", 4, 4).sizes(), torch::IntArrayRef({0, 3, 2}));
  expect_parts(error_of([&] { in.read_rows("rows", 3, 11); }), {"rows", "[10, 3, 2]", "3 ... 11"});
  EXPECT_THROW(in.read_rows("rows", -1, 3), Error);
  EXPECT_THROW(in.read_rows("rows", 3, 2), Error);
  EXPECT_THROW(in.read_rows("s", 0, 0), Error);
  expect_parts(error_of([&] { in.read("rosw"); }), {"t.safetensors", "'rosw'", "'rows'"});
}

TEST_F(Safetensors, WritingReplacesWhole) {
  save_safetensors(file(), {{"a", torch::ones({1000})}});
  const SafetensorsFile old(file());
  save_safetensors(file(), {{"b", torch::zeros({2})}});
  EXPECT_TRUE(old.read("a").equal(torch::ones({1000})));  // a reader keeps the file it opened
  EXPECT_TRUE(SafetensorsFile(file()).has("b"));
}

TEST_F(Safetensors, WhatCannotBeWrittenLeavesNothing) {
  const auto x = torch::ones({2});
  expect_parts(error_of([&] { save_safetensors(file(), {{"a", x}, {"a", x}}); }), {"'a'", "two"});
  expect_parts(error_of([&] { save_safetensors(file(), {{"a", Tensor()}}); }), {"undefined"});
  EXPECT_THROW(save_safetensors(file(), {{"__metadata__", x}}), Error);
  EXPECT_THROW(save_safetensors(file(), {{"a", x.to(at::kComplexFloat)}}), Error);
  EXPECT_THROW(save_safetensors(file(), {{"\xff\xfe", x}}), Error);
  EXPECT_EQ(files_left(), 0u);
  expect_parts(error_of([&] {
                 save_safetensors("/nonexistent/x.safetensors", {{"a", x}});
               }),
               {"/nonexistent/x.safetensors", "No such file", "check the folder"});
  expect_parts(error_of([&] { save_safetensors("/proc/x.safetensors", {{"a", x}}); }), {"/proc/x"});
}

// A file-size limit in a child process stands for the full disk: the same failing write, without
// root.
TEST_F(Safetensors, ADiskThatFillsUpKeepsTheOldFile) {
  save_safetensors(file(), {{"old", torch::ones({8})}});
  const pid_t child = fork();
  if (child == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1 << 20, 1 << 20};
    setrlimit(RLIMIT_FSIZE, &limit);
    try {
      save_safetensors(file(), {{"new", torch::ones({1 << 20})}});
    } catch (const Error& error) {
      const std::string text = error.what();
      _exit(text.find("t.safetensors") != text.npos && text.find("File too large") != text.npos
                ? 7
                : 8);
    }
    _exit(9);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 7);
  EXPECT_EQ(files_left(), 1u);
  EXPECT_TRUE(SafetensorsFile(file()).has("old"));
}

TEST_F(Safetensors, ForeignAndTruncatedFilesAreNamed) {
  const auto open = [](const fs::path& path) {
    return error_of([&] { SafetensorsFile in(path); });
  };
  expect_parts(open(file("none")), {"none", "cannot open"});
  expect_parts(open(folder_), {"no plain file"});
  std::ofstream(file("short")) << "abc";
  expect_parts(open(file("short")), {"short", "truncated"});
  std::ofstream(file("image")) << "\x89PNG\r\n\x1a\n" << std::string(100, 'p');
  expect_parts(open(file("image")), {"image", "not a safetensors file"});
  expect_parts(open(raw("{}", 0, 5000)), {"5000 bytes", "truncated"});
  expect_parts(open(raw("[]", 0)), {"JSON object"});
  expect_parts(open(raw("{\"a\":", 0)), {"JSON object"});
  expect_parts(open(raw(std::string(100'000, '['), 0)), {"JSON object"});

  save_safetensors(file(), {{"a", torch::ones({100})}, {"b", torch::ones({100})}});
  const auto whole = fs::file_size(file());
  for (const uint64_t size : {whole - 1, whole - 500, uint64_t{40}, uint64_t{7}, uint64_t{0}}) {
    fs::copy_file(file(), file("cut"), fs::copy_options::overwrite_existing);
    fs::resize_file(file("cut"), size);
    expect_parts(open(file("cut")), {"cut", "truncated"});
  }
  fs::copy_file(file(), file("cut"), fs::copy_options::overwrite_existing);
  const SafetensorsFile in(file("cut"));
  fs::resize_file(file("cut"), whole - 100);  // while it is open
  EXPECT_TRUE(in.read("a").equal(torch::ones({100})));
  expect_parts(error_of([&] { in.read("b"); }), {"cut", "'b'", "truncated"});
}

TEST_F(Safetensors, HeadersAreCheckedBeforeTheyAreBelieved) {
  const auto tensor = [](const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return fmt::format(R"("t":{{"dtype":{},"shape":{},"data_offsets":{}}})", dtype, shape, offsets);
  };
  const auto error = [&](const std::string& body, size_t bytes = 16) {
    return error_of([&] { SafetensorsFile in(raw("{" + body + "}", bytes)); });
  };
  EXPECT_NO_THROW(SafetensorsFile(raw("{" + tensor("\"F32\"", "[4]", "[0,16]") + "}", 16)));
  expect_parts(error(tensor("\"F33\"", "[4]", "[0,16]")), {"raw", "'t'", "'F33'"});
  expect_parts(error(tensor("3", "[4]", "[0,16]")), {"dtype"});
  expect_parts(error(tensor("\"F32\"", "[5]", "[0,16]")), {"needs 20 bytes", "hold 16"});
  expect_parts(error(tensor("\"F32\"", "[-4]", "[0,16]")), {"no size"});
  expect_parts(error(tensor("\"F32\"", "[4.0]", "[0,16]")), {"no size"});
  expect_parts(error(tensor("\"F32\"", "\"4\"", "[0,16]")), {"shape"});
  expect_parts(error(tensor("\"F32\"", "[4294967296,4294967296]", "[0,0]")), {"too large"});
  expect_parts(error(tensor("\"F32\"", "[18446744073709551615]", "[0,16]")), {"no size"});
  expect_parts(error(tensor("\"F32\"", "[4]", "[4,20]")), {"outside"});
  expect_parts(error(tensor("\"F32\"", "[4]", "[16,0]")), {"outside"});
  expect_parts(error(tensor("\"F32\"", "[4]", "[0,18446744073709551615]")), {"outside"});
  expect_parts(error(tensor("\"F32\"", "[4]", "[0]")), {"data_offsets"});
  expect_parts(error(tensor("\"F32\"", "[4]", "[-16,0]")), {"data_offsets"});
  expect_parts(error(R"("t":{"dtype":"F32","shape":[4]})"), {"wanted dtype"});
  expect_parts(error(R"("t":7)"), {"wanted dtype"});
  expect_parts(error(R"("__metadata__":{"a":1})"), {"'a' is no text"});
  const auto one = tensor("\"F32\"", "[2]", "[0,8]");
  auto other = tensor("\"F32\"", "[2]", "[4,12]");
  expect_parts(error(one + "," + other), {"different names"});
  other.replace(1, 1, "u");
  expect_parts(error(one + "," + other), {"overlap", "'t'", "'u'"});
}

TEST_F(Safetensors, DurableFilesAppearWholeOrNotAtAll) {
  write_file_durably(file("meta"), "one");
  {
    DurableFile out(file("meta"));
    out.write("two!", 4, 0);
    EXPECT_EQ(files_left(), 2u);
  }  // never published
  EXPECT_EQ(files_left(), 1u);
  std::string text;
  std::ifstream(file("meta")) >> text;
  EXPECT_EQ(text, "one");
  EXPECT_THROW(write_file_durably("/nonexistent/meta", "x"), Error);
  EXPECT_THROW(rename_durably(file("none"), file("other")), Error);
}

// Files for tests/e2e/safetensors_witness.py, and one of its files read back.
TEST_F(Safetensors, ExchangeWithTheWitness) {
  const char* exchange = std::getenv("FACETRAIN_EXCHANGE");
  if (!exchange) GTEST_SKIP() << "set FACETRAIN_EXCHANGE to a folder to take part";
  const fs::path theirs = fs::path(exchange) / "theirs.safetensors";
  if (fs::exists(theirs)) {
    const SafetensorsFile in(theirs);
    NamedTensors tensors;
    for (const auto& [name, info] : in.tensors()) tensors.emplace_back(name, in.read(name));
    save_safetensors(fs::path(exchange) / "back.safetensors", tensors, in.metadata());
  }
  save_safetensors(fs::path(exchange) / "ours.safetensors", every_dtype(), {{"step", "12"}});
}

}  // namespace
}  // namespace facetrain
