// Label columns: what a data set knows of its images beside the pixels.
//
// A column has one type, shape, unit, convention and missing value wherever it stands: in a shard,
// in a sample, in a batch. docs/formats.md lists them.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <vector>

namespace facetrain {

// kPng: a region mask, PNG bytes in a shard, uint8 [H, W] in a sample. kText: UTF-8, in shards
// only, no field of samples.
enum class ColumnType { kInt64, kFloat32, kUint8, kPng, kText };

struct Column {
  std::string name;
  ColumnType type = ColumnType::kInt64;
  std::vector<int64_t> shape;        // of one record; empty: one value, or of variable length
  std::string unit;                  // "degrees", "pixels", "class" ...
  std::string convention;            // origin, order, signs
  std::vector<std::string> classes;  // names of the class numbers, or of the entries
  bool complete = true;              // every record has a value

  bool variable() const { return type == ColumnType::kPng || type == ColumnType::kText; }
  int64_t elements() const;      // of one record; 1 for a scalar
  int64_t element_size() const;  // bytes
  int64_t record_size() const { return elements() * element_size(); }
};

// Missing values: -1 (int64), NaN (float32), 255 (uint8, and every pixel of a mask), no bytes
// (text).
inline constexpr int64_t kMissingInt = -1;
inline constexpr uint8_t kMissingByte = 255;

std::string to_string(ColumnType type);  // "int64", "float32", "uint8", "png", "text"
ColumnType parse_column_type(const std::string& text);
at::ScalarType scalar_type(ColumnType type);

// The columns that the whole program knows by name: identity, landmarks5, landmarks68, pose, gaze,
// mask, attributes, expression, age, age_group, quality, visibility68, name. `attributes` has the
// length of its class names (0 here).
const std::vector<Column>& standard_columns();
// Throws for a name that is none of them.
Column standard_column(std::string_view name);

// A tensor of the missing value, shaped like one record; a mask takes the shape given.
at::Tensor missing_value(const Column& column, at::IntArrayRef mask_shape);

}  // namespace facetrain
