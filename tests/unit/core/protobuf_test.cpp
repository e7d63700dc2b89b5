// The wire format against bytes worked out by hand from its specification
// (https://protobuf.dev/programming-guides/encoding), and a reader that survives any bytes.
#include "core/protobuf.h"

#include <gtest/gtest.h>

#include <bit>
#include <limits>

#include "core/random.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {

std::string hex(const std::string& bytes) {
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

TEST(Protobuf, BytesOfTheSpecification) {
  ProtobufWriter a;
  a.integer(1, 150);
  EXPECT_EQ(hex(a.bytes()), "089601");  // the specification's Test1
  ProtobufWriter b;
  b.text(2, "testing");
  EXPECT_EQ(hex(b.bytes()), "120774657374696e67");  // its Test2
  ProtobufWriter c;
  c.message(3, a);
  EXPECT_EQ(hex(c.bytes()), "1a03089601");  // its Test3
  ProtobufWriter d;
  d.packed(6, std::vector<int64_t>{3, 270, 86942});
  EXPECT_EQ(hex(d.bytes()), "3206038e029ea705");  // its Test5
  ProtobufWriter e;
  e.integer(1, -2);
  EXPECT_EQ(hex(e.bytes()), "08feffffffffffffffff01");  // ten bytes, two's complement
}

TEST(Protobuf, NumbersOfFixedWidth) {
  ProtobufWriter writer;
  writer.number(1, 1.0F);          // 0x3f800000
  writer.number(2, -2.0);          // 0xc000000000000000
  writer.fixed32(16, 0x04030201);  // a field number of two bytes
  writer.fixed64(5, 1);
  EXPECT_EQ(hex(writer.bytes()),
            "0d0000803f"
            "1100000000000000c0"
            "850101020304"
            "290100000000000000");
  EXPECT_EQ(writer.size(), writer.bytes().size());
}

TEST(Protobuf, ReadsBackWhatWasWritten) {
  const std::vector<int64_t> integers{
      0, 1, 127, 128, -1, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()};
  const std::vector<float> floats{0.5F, -1e30F, std::numeric_limits<float>::infinity()};
  const std::vector<double> doubles{0.1, -1e300};
  ProtobufWriter inner;
  for (const int64_t value : integers) inner.integer(9, value);
  ProtobufWriter writer;
  writer.message(1, inner);
  writer.packed(2, integers);
  writer.packed(3, floats);
  writer.packed(4, doubles);
  writer.packed(5, std::vector<int64_t>{});  // nothing
  writer.text(6, std::string(100'000, 'x'));
  writer.text(536870911, "");

  const std::string bytes = writer.bytes();
  ProtobufReader reader(bytes);
  std::vector<int64_t> single;
  ProtobufReader nested(reader.next()->bytes());
  while (const auto field = nested.next()) {
    EXPECT_EQ(field->field, 9);
    single.push_back(field->integer());
    EXPECT_EQ(field->integers(), std::vector<int64_t>{field->integer()});
  }
  EXPECT_EQ(single, integers);
  EXPECT_EQ(reader.next()->integers(), integers);
  EXPECT_EQ(reader.next()->float_numbers(), floats);
  EXPECT_EQ(reader.next()->double_numbers(), doubles);
  EXPECT_EQ(reader.next()->text(), std::string(100'000, 'x'));
  const auto last = reader.next();
  EXPECT_EQ(last->field, 536870911);
  EXPECT_EQ(last->text(), "");
  EXPECT_FALSE(reader.next().has_value());
}

TEST(Protobuf, LargeNestedMessagesComeInPieces) {
  // 3 levels, 200 KB each: moved, not copied, and the same bytes as one string.
  const std::string payload(200'000, 'p');
  ProtobufWriter one, two, three;
  one.text(1, payload);
  one.integer(2, 7);
  two.message(1, one);
  two.integer(3, 8);
  three.message(1, std::move(two));
  three.message(1, std::move(one));
  EXPECT_GT(three.pieces().size(), 2u);
  const std::string bytes = three.bytes();
  ASSERT_EQ(bytes.size(), three.size());
  ProtobufReader reader(bytes);
  ProtobufReader second(reader.next()->bytes());
  ProtobufReader first(second.next()->bytes());
  EXPECT_EQ(first.next()->bytes(), payload);
  EXPECT_EQ(first.next()->integer(), 7);
  EXPECT_EQ(second.next()->integer(), 8);
  ProtobufReader other(reader.next()->bytes());
  EXPECT_EQ(other.next()->bytes(), payload);
  EXPECT_FALSE(reader.next().has_value());
}

TEST(Protobuf, FieldsOfAnotherTypeAreErrors) {
  ProtobufWriter writer;
  writer.integer(4, 1);
  const std::string bytes = writer.bytes();
  const auto field = *ProtobufReader(bytes).next();
  expect_error([&] { field.text(); }, {"field 4", "wire type 0"});
  expect_error([&] { field.float_number(); }, {"wanted field 4 to be a float"});
  expect_error([&] { field.double_numbers(); }, {"field 4"});
  expect_error([] { ProtobufWriter().integer(0, 1); }, {"field number", "found 0"});
  ProtobufWriter odd;
  odd.text(1, "12345");
  const std::string five = odd.bytes();
  expect_error([&] { ProtobufReader(five).next()->float_numbers(); },
               {"4-byte numbers", "found 5"});
}

void walk(std::string_view message, int depth) {
  ProtobufReader reader(message);
  while (const auto field = reader.next()) {
    if (depth == 0) continue;
    try {
      walk(field->bytes(), depth - 1);
    } catch (const Error&) {  // no message after all
    }
  }
}

TEST(Protobuf, WhatIsNoMessageIsAnError) {
  for (const std::string& bytes :
       {std::string("\x08"),  // a number is missing
        std::string("\x0a\x05"
                    "abc"),                                               // 5 bytes wanted, 3 there
        std::string("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),      // 2^64 - 1 bytes
        std::string("\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),  // eleven bytes
        std::string("\x0d\x01\x02", 3),                                   // half a fixed32
        std::string("\x0b"),                                              // a group
        std::string("\x00\x01", 2)})                                      // field 0
    EXPECT_THROW(walk(bytes, 0), Error) << hex(bytes);
}

TEST(Protobuf, AnyBytesEndInAnErrorOrAtTheirEnd) {
  ProtobufWriter inner, writer;
  inner.packed(1, std::vector<int64_t>{1, 2, 300});
  inner.text(2, "name");
  writer.message(1, inner);
  writer.number(2, 1.5);
  writer.message(3, inner);
  const std::string whole = writer.bytes();
  Random random(random_key(17, 3));
  int errors = 0;
  for (int trial = 0; trial < 5000; ++trial) {
    std::string bytes = whole.substr(0, random.below(whole.size() + 1));
    for (int change = 0; change < 3 && !bytes.empty(); ++change)
      bytes[random.below(bytes.size())] = static_cast<char>(random.below(256));
    try {
      walk(bytes, 3);
    } catch (const Error&) {
      ++errors;
    }
  }
  EXPECT_GT(errors, 1000);
  EXPECT_LT(errors, 5000);
}

}  // namespace
}  // namespace facetrain
