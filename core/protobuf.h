// The wire format of protocol buffers, without the library, whose symbols clash with LibTorch's:
// what ONNX models and TensorBoard events are made of
// (https://protobuf.dev/programming-guides/encoding).
//
// A writer appends fields in the order of the calls; a reader walks the fields of one message and
// never leaves its bytes, whatever they say. Neither knows a schema: field numbers and types are
// the caller's. Groups, long obsolete, are refused.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace facetrain {

// One message in the making. Numbers of fields are 1 ... 2^29 - 1.
class ProtobufWriter {
 public:
  // int32, int64, uint32, uint64, bool and enum fields; negative ones take ten bytes, as in
  // protobuf. sint32 and sint64 (zigzag) are not made.
  void integer(int field, int64_t value);
  void fixed32(int field, uint32_t value);  // also sfixed32
  void fixed64(int field, uint64_t value);  // also sfixed64
  void number(int field, float value);
  void number(int field, double value);
  // string (UTF-8, not checked) and bytes fields; copied once.
  void text(int field, std::string_view bytes);
  // A nested message, whose bytes are taken over without a copy.
  void message(int field, ProtobufWriter nested);
  // Packed repeated fields: one entry for all values, nothing for none.
  void packed(int field, std::span<const int64_t> values);
  void packed(int field, std::span<const float> values);
  void packed(int field, std::span<const double> values);

  uint64_t size() const { return size_; }  // bytes so far
  // The message in consecutive pieces, and in one string.
  const std::vector<std::string>& pieces() const { return pieces_; }
  std::string bytes() const;

 private:
  void tag(int field, int wire);
  void varint(uint64_t value);
  void append(const void* data, size_t bytes);
  template <class T>
  void packed_numbers(int field, std::span<const T> values);
  std::vector<std::string> pieces_;  // so that a nested gigabyte is moved, not copied
  uint64_t size_ = 0;
};

// One field as it stands in a message. The accessors throw for a field of another wire type.
class ProtobufField {
 public:
  int field = 0;  // its number

  int64_t integer() const;
  float float_number() const;
  double double_number() const;
  std::string_view bytes() const;  // of a string, bytes, or nested message; lies in the input
  std::string text() const { return std::string(bytes()); }
  // All values of a repeated field's entry, packed or single.
  std::vector<int64_t> integers() const;
  std::vector<float> float_numbers() const;
  std::vector<double> double_numbers() const;

 private:
  friend class ProtobufReader;
  void expect(int wire, const char* wanted) const;
  int wire_ = 0;
  uint64_t value_ = 0;
  std::string_view bytes_;
};

// Walks the fields of a message: `while (const auto field = reader.next())`. The message's bytes
// must outlive what is read.
class ProtobufReader {
 public:
  explicit ProtobufReader(std::string_view message) : rest_(message) {}
  // The next field, or nothing at the end. Throws for bytes that are no message: truncated, a
  // length beyond the end, an overlong number, a group, field number 0.
  std::optional<ProtobufField> next();

 private:
  std::string_view rest_;
};

}  // namespace facetrain
