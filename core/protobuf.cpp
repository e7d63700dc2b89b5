#include "core/protobuf.h"

#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include "core/check.h"

namespace facetrain {
namespace {

static_assert(std::endian::native == std::endian::little,
              "fixed-width fields are copied as they are");

// Wire types.
constexpr int kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5;
constexpr size_t kPiece = 1 << 16;  // a piece that has reached this is left alone

size_t varint_size(uint64_t value) {
  size_t bytes = 1;
  while (value >>= 7) ++bytes;
  return bytes;
}

// Removes and returns the first `bytes` of what is left of a message.
std::string_view take(std::string_view& rest, uint64_t bytes) {
  FT_CHECK(bytes <= rest.size(),
           "protobuf: a field wants {} bytes and the message has {} left: not such a file, or cut "
           "off",
           bytes, rest.size());
  const std::string_view taken = rest.substr(0, bytes);
  rest.remove_prefix(bytes);
  return taken;
}

uint64_t take_varint(std::string_view& rest) {
  uint64_t value = 0;
  for (int shift = 0; shift < 70; shift += 7) {
    const auto byte = static_cast<unsigned char>(take(rest, 1)[0]);
    value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  FT_FAIL("protobuf: found a number of more than ten bytes: this is no such file");
}

template <class T>
std::vector<T> unpack(std::string_view bytes) {
  FT_CHECK(bytes.size() % sizeof(T) == 0,
           "protobuf: wanted a packed field of {}-byte numbers, found {} bytes", sizeof(T),
           bytes.size());
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

}  // namespace

void ProtobufWriter::append(const void* data, size_t bytes) {
  if (pieces_.empty() || pieces_.back().size() >= kPiece) pieces_.emplace_back();
  pieces_.back().append(static_cast<const char*>(data), bytes);
  size_ += bytes;
}

void ProtobufWriter::varint(uint64_t value) {
  char out[10];
  size_t bytes = 0;
  for (; value >= 0x80; value >>= 7) out[bytes++] = static_cast<char>(value | 0x80);
  out[bytes++] = static_cast<char>(value);
  append(out, bytes);
}

void ProtobufWriter::tag(int field, int wire) {
  FT_CHECK(field >= 1 && field < (1 << 29),
           "protobuf: wanted a field number 1 ... 536870911, found {}", field);
  varint(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire));
}

void ProtobufWriter::integer(int field, int64_t value) {
  tag(field, kVarint);
  varint(static_cast<uint64_t>(value));
}

void ProtobufWriter::fixed32(int field, uint32_t value) {
  tag(field, kFixed32);
  append(&value, sizeof value);
}

void ProtobufWriter::fixed64(int field, uint64_t value) {
  tag(field, kFixed64);
  append(&value, sizeof value);
}

void ProtobufWriter::number(int field, float value) {
  fixed32(field, std::bit_cast<uint32_t>(value));
}

void ProtobufWriter::number(int field, double value) {
  fixed64(field, std::bit_cast<uint64_t>(value));
}

void ProtobufWriter::text(int field, std::string_view bytes) {
  tag(field, kBytes);
  varint(bytes.size());
  append(bytes.data(), bytes.size());
}

void ProtobufWriter::message(int field, ProtobufWriter nested) {
  tag(field, kBytes);
  varint(nested.size_);
  if (nested.size_ < kPiece) {
    for (const std::string& piece : nested.pieces_) append(piece.data(), piece.size());
    return;
  }
  std::move(nested.pieces_.begin(), nested.pieces_.end(), std::back_inserter(pieces_));
  size_ += nested.size_;
}

void ProtobufWriter::packed(int field, std::span<const int64_t> values) {
  if (values.empty()) return;
  size_t bytes = 0;
  for (const int64_t value : values) bytes += varint_size(static_cast<uint64_t>(value));
  tag(field, kBytes);
  varint(bytes);
  for (const int64_t value : values) varint(static_cast<uint64_t>(value));
}

template <class T>
void ProtobufWriter::packed_numbers(int field, std::span<const T> values) {
  if (!values.empty())
    text(field, {reinterpret_cast<const char*>(values.data()), values.size_bytes()});
}

void ProtobufWriter::packed(int field, std::span<const float> values) {
  packed_numbers(field, values);
}

void ProtobufWriter::packed(int field, std::span<const double> values) {
  packed_numbers(field, values);
}

std::string ProtobufWriter::bytes() const {
  std::string whole;
  whole.reserve(size_);
  for (const std::string& piece : pieces_) whole += piece;
  return whole;
}

void ProtobufField::expect(int wire, const char* wanted) const {
  FT_CHECK(wire_ == wire, "protobuf: wanted field {} to be {}, found wire type {}", field, wanted,
           wire_);
}

int64_t ProtobufField::integer() const {
  expect(kVarint, "an integer");
  return static_cast<int64_t>(value_);
}

float ProtobufField::float_number() const {
  expect(kFixed32, "a float");
  return std::bit_cast<float>(static_cast<uint32_t>(value_));
}

double ProtobufField::double_number() const {
  expect(kFixed64, "a double");
  return std::bit_cast<double>(value_);
}

std::string_view ProtobufField::bytes() const {
  expect(kBytes, "text, bytes or a message");
  return bytes_;
}

std::vector<int64_t> ProtobufField::integers() const {
  if (wire_ == kVarint) return {integer()};
  std::vector<int64_t> values;
  for (std::string_view rest = bytes(); !rest.empty();)
    values.push_back(static_cast<int64_t>(take_varint(rest)));
  return values;
}

std::vector<float> ProtobufField::float_numbers() const {
  if (wire_ == kFixed32) return {float_number()};
  return unpack<float>(bytes());
}

std::vector<double> ProtobufField::double_numbers() const {
  if (wire_ == kFixed64) return {double_number()};
  return unpack<double>(bytes());
}

std::optional<ProtobufField> ProtobufReader::next() {
  if (rest_.empty()) return std::nullopt;
  const uint64_t tag = take_varint(rest_);
  FT_CHECK(tag >> 3 >= 1 && tag >> 3 < (1u << 29),
           "protobuf: wanted a field number 1 ... 536870911, found {}: this is no such file",
           tag >> 3);
  ProtobufField found;
  found.field = static_cast<int>(tag >> 3);
  found.wire_ = static_cast<int>(tag & 7);
  switch (found.wire_) {
    case kVarint:
      found.value_ = take_varint(rest_);
      break;
    case kFixed64:
      std::memcpy(&found.value_, take(rest_, 8).data(), 8);
      break;
    case kBytes:
      found.bytes_ = take(rest_, take_varint(rest_));
      break;
    case kFixed32:
      std::memcpy(&found.value_, take(rest_, 4).data(), 4);  // the low half, little-endian
      break;
    default:
      FT_FAIL("protobuf: field {} has wire type {}, which no field of today has", found.field,
              found.wire_);
  }
  return found;
}

}  // namespace facetrain
