#include "eval/labels.h"

#include <fmt/format.h>

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

std::vector<std::string> read_labels(const fs::path& file, int64_t rows) {
  std::ifstream stream(file);
  FT_CHECK(stream && !fs::is_directory(file), "{}: cannot read these labels", file.string());
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
