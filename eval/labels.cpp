#include "eval/labels.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>

#include "core/check.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

// Whether equal numbers have equal folders and the other way round.
bool one_to_one(const std::vector<std::string>& folders, const std::vector<int64_t>& numbers) {
  std::map<std::string, int64_t> number_of;
  std::map<int64_t, std::string> folder_of;
  for (size_t k = 0; k < numbers.size(); ++k) {
    if (number_of.try_emplace(folders[k], numbers[k]).first->second != numbers[k]) return false;
    if (folder_of.try_emplace(numbers[k], folders[k]).first->second != folders[k]) return false;
  }
  return true;
}

// A column that divides images into groups: one number an image, or one entry of a column of bytes.
struct Grouping {
  std::string field;
  int64_t entry = -1;  // of the field; -1: the field itself
  std::vector<std::string> classes;
};

// Every grouping that the columns of a set allow, by the name that a user writes.
std::map<std::string, Grouping> groupings(const std::vector<Column>& columns) {
  std::map<std::string, Grouping> found;
  for (const auto& column : columns) {
    if (column.variable() || column.type == ColumnType::kFloat32) continue;
    if (column.shape.empty()) found[column.name] = {column.name, -1, column.classes};
    for (size_t k = 0; !column.shape.empty() && k < column.classes.size(); ++k)
      found[column.name + "." + column.classes[k]] = {
          column.name, static_cast<int64_t>(k), {"not " + column.classes[k], column.classes[k]}};
  }
  return found;
}

int64_t label_number(const Grouping& grouping, const Sample& sample) {
  const auto found = sample.fields.find(grouping.field);
  if (found == sample.fields.end()) return kMissingInt;
  const at::Tensor value =
      grouping.entry < 0 ? found->second : found->second.flatten()[grouping.entry];
  const auto number = value.item<int64_t>();
  return value.scalar_type() == at::kByte && number == kMissingByte ? kMissingInt : number;
}

const Grouping& find_grouping(const std::map<std::string, Grouping>& known,
                              const std::string& column, const Source& source) {
  const auto grouping = known.find(column);
  if (grouping != known.end()) return grouping->second;
  std::vector<std::string> names;
  for (const auto& [name, other] : known) names.push_back(name);
  FT_FAIL("{}: no column '{}' of one number an image; {}", source.name(), column,
          names.empty() ? "this set has none (`facetrain shards info` prints columns)"
                        : fmt::format("it has: {}", fmt::join(names, ", ")));
}

}  // namespace

std::vector<std::string> keys_of(const Source& source) {
  std::vector<std::string> keys;
  for (int64_t row = 0; row < source.size(); ++row) keys.push_back(source.key(row));
  return keys;
}

std::vector<std::string> identities_of(const Source& source) {
  std::vector<int64_t> numbers;
  bool keys_are_names = true;
  for (int64_t row = 0; row < source.size(); ++row) {
    numbers.push_back(source.identity(row));
    if (numbers.back() < 0) return {};
    keys_are_names = keys_are_names && source.key(row) != source.describe(row);
  }
  if (keys_are_names) {
    auto folders = folders_of(keys_of(source));
    if (!folders.empty() && one_to_one(folders, numbers)) return folders;
  }
  std::vector<std::string> texts;
  for (const int64_t number : numbers) texts.push_back(std::to_string(number));
  return texts;
}

std::vector<std::string> folders_of(const std::vector<std::string>& names) {
  std::vector<std::string> folders;
  for (const auto& name : names) {
    const size_t slash = name.find('/');
    if (slash == std::string::npos || slash == 0) return {};
    folders.push_back(name.substr(0, slash));
  }
  return folders;
}

std::vector<std::string> labels_of(const Source& source, const std::string& column,
                                   const std::vector<int64_t>& rows) {
  const auto known = groupings(source.columns());
  const Grouping& grouping = find_grouping(known, column, source);
  const auto classes = static_cast<int64_t>(grouping.classes.size());
  std::vector<std::string> labels;
  for (const int64_t row : rows) {
    const int64_t number = label_number(grouping, source.read(row));
    labels.push_back(number == kMissingInt ? ""
                     : number >= 0 && number < classes
                         ? grouping.classes[static_cast<size_t>(number)]
                         : std::to_string(number));
  }
  return labels;
}

std::vector<int64_t> numbers_of(const Source& source, const std::string& column) {
  std::vector<int64_t> numbers;
  const auto known = groupings(source.columns());
  const Grouping& grouping = find_grouping(known, column, source);
  for (int64_t row = 0; row < source.size(); ++row)
    numbers.push_back(label_number(grouping, source.read(row)));
  return numbers;
}

std::vector<std::string> read_labels(const fs::path& file, int64_t rows) {
  std::ifstream stream(file);
  FT_CHECK(stream && !fs::is_directory(file),
           "{}: cannot read these labels ({}); wanted a text file with an identity a line",
           file.string(), fs::is_directory(file) ? "it is a folder" : std::strerror(errno));
  std::vector<std::string> labels;
  for (std::string line; std::getline(stream, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    FT_CHECK(line.find_first_not_of(" \t") != std::string::npos,
             "{}:{}: wanted the identity of row {}, found an empty line", file.string(),
             labels.size() + 1, labels.size());
    labels.push_back(line);
  }
  FT_CHECK(static_cast<int64_t>(labels.size()) == rows,
           "{}: {} lines for {} embeddings; wanted one identity a line, in the order of the rows",
           file.string(), labels.size(), rows);
  return labels;
}

}  // namespace facetrain
