// The pickle machine on opcodes written by hand: what each group leaves, and that nothing else is
// taken.
#include "core/pickle.h"

#include <gtest/gtest.h>

#include "tests/support/error_of.h"
#include "tests/support/pth_bytes.h"

namespace facetrain {
namespace {

using Kind = Pickle::Kind;
using pickled::call;
using pickled::dict;
using pickled::global;
using pickled::integer;
using pickled::text;
using pickled::tuple;
using pickled::whole;

const Pickle::Rule kAll = [](const std::string&) {};

Pickle read(const std::string& value, const Pickle::Rule& rule = kAll) {
  return {whole(value), "file", rule};
}
// The root alone.
Pickle::Value root(const std::string& value) {
  const Pickle pickle = read(value);
  return pickle.at(pickle.root());
}
std::string bytes(std::initializer_list<int> values) {
  std::string all;
  for (const int value : values) all += static_cast<char>(value);
  return all;
}

TEST(Pickle, Numbers) {
  const auto expect_integer = [](const std::string& opcodes, int64_t value) {
    const auto found = root(opcodes);
    EXPECT_EQ(found.kind, Kind::kInteger);
    EXPECT_EQ(found.integer, value);
  };
  expect_integer("K\xff", 255);
  expect_integer(bytes({'M', 0xe9, 0x03}), 1001);
  expect_integer(bytes({'J', 0xfe, 0xff, 0xff, 0xff}), -2);
  expect_integer(bytes({0x8a, 0}), 0);
  expect_integer(bytes({0x8a, 1, 0xff}), -1);
  expect_integer(bytes({0x8a, 2, 0xff, 0x00}), 255);
  expect_integer(bytes({0x8b, 2, 0, 0, 0, 0x00, 0x80}), -32768);
  EXPECT_EQ(root(bytes({0x8a, 10, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10})).kind, Kind::kBytes);
  const auto real = root(bytes({'G', 0x40, 0x09, 0x21, 0xfb, 0x54, 0x44, 0x2d, 0x18}));
  EXPECT_EQ(real.kind, Kind::kReal);
  EXPECT_EQ(real.real, 3.141592653589793);
  EXPECT_EQ(root("\x88").integer, 1);
  EXPECT_EQ(root("\x89").integer, 0);
  EXPECT_EQ(root("\x89").kind, Kind::kBool);
  EXPECT_EQ(root("N").kind, Kind::kNone);
}

TEST(Pickle, Texts) {
  for (const std::string& opcodes :
       {text("abc"), bytes({0x8c, 3}) + "abc", bytes({0x8d, 3, 0, 0, 0, 0, 0, 0, 0}) + "abc",
        bytes({'U', 3}) + "abc", bytes({'T', 3, 0, 0, 0}) + "abc"}) {
    EXPECT_EQ(root(opcodes).kind, Kind::kText);
    EXPECT_EQ(root(opcodes).text, "abc");
  }
  for (const std::string& opcodes :
       {bytes({'C', 2, 0, 9}), bytes({'B', 2, 0, 0, 0, 0, 9}),
        bytes({0x8e, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9}), bytes({0x96, 2, 0, 0, 0, 0, 0, 0, 0, 0, 9})}) {
    EXPECT_EQ(root(opcodes).kind, Kind::kBytes);
    EXPECT_EQ(root(opcodes).text, bytes({0, 9}));
  }
}

std::vector<int64_t> integers_of(const Pickle& pickle, Pickle::Ref ref) {
  std::vector<int64_t> values;
  for (const auto item : pickle.at(ref).items) values.push_back(pickle.at(item).integer);
  return values;
}

TEST(Pickle, Containers) {
  const auto expect = [](const std::string& opcodes, Kind kind, std::vector<int64_t> items) {
    const Pickle pickle = read(opcodes);
    EXPECT_EQ(pickle.at(pickle.root()).kind, kind);
    EXPECT_EQ(integers_of(pickle, pickle.root()), items);
  };
  expect(")", Kind::kTuple, {});
  expect("K\x01\x85", Kind::kTuple, {1});
  expect("K\x01K\x02\x86", Kind::kTuple, {1, 2});
  expect("K\x01K\x02K\x03\x87", Kind::kTuple, {1, 2, 3});
  expect("(K\x01K\x02K\x03K\x04t", Kind::kTuple, {1, 2, 3, 4});
  expect(
      "]K\x01"
      "a(K\x02K\x03"
      "e",
      Kind::kList, {1, 2, 3});
  expect("\x8f(K\x05K\x06\x90", Kind::kSet, {5, 6});
  expect("(K\x05\x91", Kind::kSet, {5});
  expect("}K\x01K\x02s(K\x03K\x04u", Kind::kDict, {1, 2, 3, 4});
}

TEST(Pickle, MemoryAndStack) {
  const Pickle pickle =
      read("]q\x05K\x07r" + little_endian(70000u) + "a(h\x05j" + little_endian(70000u) + "t");
  const auto& items = pickle.at(pickle.root()).items;
  EXPECT_EQ(integers_of(pickle, items[0]), std::vector<int64_t>{7});
  EXPECT_EQ(pickle.at(items[1]).integer, 7);
  const auto kept = root("K\x01\x94K\x02\x94(" + bytes({'h', 1, 'h', 0, 't'}));
  EXPECT_EQ(kept.items, (std::vector<Pickle::Ref>{1, 0}));  // MEMOIZE counts from 0
  EXPECT_EQ(root("K\x01K\x02"
                 "0")
                .integer,
            1);
  EXPECT_EQ(root("K\x01(K\x02K\x03"
                 "1")
                .integer,
            1);
  EXPECT_EQ(root("K\x01(0").integer, 1);  // POP takes a mark away
  EXPECT_EQ(root("K\x04"
                 "2\x86")
                .items.size(),
            2u);
  // A list that contains itself.
  const Pickle loop = read(
      "]q\x01h\x01"
      "a");
  EXPECT_EQ(loop.at(loop.root()).items, std::vector<Pickle::Ref>{loop.root()});
}

TEST(Pickle, CallsAreKeptAndNamed) {
  std::vector<std::string> asked;
  const Pickle::Rule rule = [&](const std::string& name) { asked.push_back(name); };
  const std::string os = global("os", "system"), words = tuple({text("touch x")});
  for (const std::string& opcodes :
       {os + words + "R", os + words + bytes({0x81}), os + words + "}" + bytes({0x92}),
        text("os") + text("system") + bytes({0x93}) + words + "R",
        "(" + text("touch x") + "ios\nsystem\n", "(" + os + text("touch x") + "o"}) {
    const Pickle pickle = read(opcodes, rule);
    EXPECT_EQ(pickle.called(pickle.root()), "os.system");
    ASSERT_EQ(pickle.arguments(pickle.root()).size(), 1u);
    EXPECT_EQ(pickle.at(pickle.arguments(pickle.root())[0]).text, "touch x");
  }
  EXPECT_EQ(asked, std::vector<std::string>(6, "os.system"));
  // What is set in a call's result is kept; attributes are dropped.
  const Pickle table =
      read(call(global("collections", "OrderedDict"), {}) + "(" + text("a") + "K\x01u}b");
  EXPECT_EQ(table.called(table.root()), "collections.OrderedDict");
  EXPECT_EQ(table.at(table.root()).items.size(), 2u);
  EXPECT_EQ(read("K\x01").called(0), "");
  const Pickle id = read(tuple({text("storage")}) + "Q");
  EXPECT_EQ(id.at(id.root()).kind, Kind::kPersistent);
  EXPECT_EQ(id.arguments(id.root()).size(), 1u);
}

TEST(Pickle, ARefusedNameEndsTheReading) {
  const Pickle::Rule rule = [](const std::string& name) { FT_FAIL("refused {}", name); };
  expect_error([&] { read(global("os", "system"), rule); }, {"refused os.system"});
}

TEST(Pickle, SeveralFollowEachOther) {
  const std::string first = whole(integer(5)), both = first + whole(text("x"));
  const Pickle pickle(both, "file", kAll);
  EXPECT_EQ(pickle.bytes(), first.size());
  EXPECT_EQ(pickle.at(pickle.root()).integer, 5);
}

TEST(Pickle, RefusesWhatIsUnsound) {
  const auto refuse = [](const std::string& opcodes,
                         std::initializer_list<std::string_view> parts) {
    expect_error([&] { read(opcodes); }, {"file: not a sound pickle", "byte"});
    expect_error([&] { read(opcodes); }, parts);
  };
  refuse("", {"empty stack"});
  refuse("0", {"empty stack"});
  refuse("(K\x01(a", {"empty stack"});  // not below the mark
  refuse("t", {"without a mark"});
  refuse("h\x03", {"recalls value 3"});
  refuse(
      "K\x01K\x02"
      "a",
      {"no container"});
  refuse("]K\x01K\x02s", {"no container"});
  refuse("}(K\x01u", {"a key has no value"});
  refuse("K\x01)R", {"no name"});
  refuse(global("a", "b") + "]R", {"no tuple"});
  refuse("K\x01K\x02\x93", {"name is no text"});
  refuse("I5\n", {"opcode 'I'", "protocols 0 and 1"});
  refuse("(S'x'\n", {"opcode 'S'", "protocols 0 and 1"});
  refuse("\x82\x01", {"extension registry"});
  refuse("\x97", {"buffer outside"});
  refuse(bytes({0x80, 6}), {"protocol 6"});
  refuse(bytes({0xfe}), {"0xfe is no opcode"});
  refuse(std::string(1, '\0'), {"is no opcode"});
  refuse("cos\nsystem", {"a name has no end"});
  refuse(bytes({0x95, 99, 0, 0, 0, 0, 0, 0, 0}), {"a frame ends behind"});
  refuse(bytes({0x8e, 255, 255, 255, 255, 255, 255, 255, 255}), {"ends inside a value"});
  const std::string sound = whole(dict({{"a", tuple({integer(1), text("x")})}}));
  for (size_t length = 0; length < sound.size(); ++length)
    expect_error([&] { Pickle(sound.substr(0, length), "file", kAll); }, {"not a sound pickle"});
}

TEST(Pickle, TheNumberOfValuesIsBounded) {
  const std::string many(Pickle::kMaxValues + 1, 'N');
  expect_error([&] { read(many); }, {"more than 4194304 values"});
  expect_error([&] { read("N" + std::string(Pickle::kMaxValues + 1, '2')); }, {"too many values"});
}

}  // namespace
}  // namespace facetrain
