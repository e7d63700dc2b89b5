#include "data/column.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "core/check.h"

namespace facetrain {
namespace {

const std::string kPixels =
    "x, y in pixels; x to the right, y down; origin at the centre of the top-left pixel";
const std::string kSigns =
    "positive yaw turns towards the image's right, positive pitch up, positive roll leans the "
    "top of the head towards the image's right";

std::vector<Column> make_columns() {
  using enum ColumnType;
  return {
      {"identity", kInt64, {}, "class", "class number of the person, 0 ... C-1", {}},
      {"landmarks5",
       kFloat32,
       {5, 2},
       "pixels",
       "left eye, right eye, nose tip, left and right corner of the mouth, as seen in the "
       "picture; " +
           kPixels,
       {}},
      {"landmarks68", kFloat32, {68, 2}, "pixels", "iBUG 300-W order; " + kPixels, {}},
      {"pose", kFloat32, {3}, "degrees", "yaw, pitch, roll; " + kSigns, {}},
      {"gaze",
       kFloat32,
       {2},
       "degrees",
       "yaw, pitch in the camera's frame; signs as those of pose",
       {}},
      {"mask", kPng, {}, "class", "class number of each pixel, single-channel PNG", {}},
      {"attributes", kUint8, {0}, "0 or 1", "one entry a name, 1 = has it", {}},
      {"expression", kInt64, {}, "class", "class number of the expression", {}},
      {"age", kFloat32, {}, "years", "apparent age", {}},
      {"age_group", kInt64, {}, "class", "class number of the age group, youngest first", {}},
      {"quality", kFloat32, {}, "1", "0 (useless) ... 1 (clean)", {}},
      {"visibility68", kUint8, {68}, "0 or 1", "one entry a point of landmarks68, 1 = seen", {}},
      {"name", kText, {}, "path", "path of the image below the folder that was packed, UTF-8", {}},
  };
}

}  // namespace

int64_t Column::elements() const {
  int64_t count = 1;
  for (const int64_t length : shape) count *= length;
  return count;
}

int64_t Column::element_size() const {
  switch (type) {
    case ColumnType::kInt64:
      return 8;
    case ColumnType::kFloat32:
      return 4;
    default:
      return 1;
  }
}

std::string to_string(ColumnType type) {
  switch (type) {
    case ColumnType::kInt64:
      return "int64";
    case ColumnType::kFloat32:
      return "float32";
    case ColumnType::kUint8:
      return "uint8";
    case ColumnType::kPng:
      return "png";
    case ColumnType::kText:
      return "text";
  }
  FT_FAIL("column type {} is unknown", static_cast<int>(type));
}

ColumnType parse_column_type(const std::string& text) {
  for (const auto type : {ColumnType::kInt64, ColumnType::kFloat32, ColumnType::kUint8,
                          ColumnType::kPng, ColumnType::kText}) {
    if (to_string(type) == text) return type;
  }
  FT_FAIL("wanted a column of type int64, float32, uint8, png or text, found '{}'", text);
}

at::ScalarType scalar_type(ColumnType type) {
  switch (type) {
    case ColumnType::kInt64:
      return at::kLong;
    case ColumnType::kFloat32:
      return at::kFloat;
    default:
      return at::kByte;
  }
}

const std::vector<Column>& standard_columns() {
  static const std::vector<Column> columns = make_columns();
  return columns;
}

Column standard_column(std::string_view name) {
  for (const Column& column : standard_columns()) {
    if (column.name == name) return column;
  }
  FT_FAIL("no label column is called '{}'", name);
}

at::Tensor missing_value(const Column& column, at::IntArrayRef mask_shape) {
  if (column.type == ColumnType::kPng) return at::full(mask_shape, kMissingByte, at::kByte);
  switch (column.type) {
    case ColumnType::kInt64:
      return at::full(column.shape, kMissingInt, at::kLong);
    case ColumnType::kFloat32:
      return at::full(column.shape, std::numeric_limits<float>::quiet_NaN(), at::kFloat);
    default:
      return at::full(column.shape, kMissingByte, at::kByte);
  }
}

}  // namespace facetrain
