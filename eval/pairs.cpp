#include "eval/pairs.h"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>

#include "core/check.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

// Reads a text file line by line and knows where it is.
class Lines {
 public:
  explicit Lines(const fs::path& file) : file_(file), stream_(file) {
    FT_CHECK(
        stream_ && !fs::is_directory(file),
        "{}: cannot read this pair list ({}); wanted a text file: CSV 'fold,i,j,same' or LFW's "
        "pairs.txt",
        file.string(), fs::is_directory(file) ? "it is a folder" : std::strerror(errno));
  }
  // The next line that is not empty, without its line end.
  bool next(std::string& line) {
    while (std::getline(stream_, line)) {
      ++number_;
      if (!line.empty() && line.back() == '\r') line.pop_back();
      if (line.find_first_not_of(" \t") != std::string::npos) return true;
    }
    return false;
  }
  int64_t number() const { return number_; }
  std::string place() const { return fmt::format("{}:{}", file_.string(), number_); }

 private:
  fs::path file_;
  std::ifstream stream_;
  int64_t number_ = 0;
};

std::vector<std::string> split(const std::string& line, char separator) {
  std::vector<std::string> parts;
  std::stringstream stream(line);
  for (std::string part; std::getline(stream, part, separator);) {
    const auto begin = part.find_first_not_of(" \t");
    const auto end = part.find_last_not_of(" \t");
    parts.push_back(begin == std::string::npos ? "" : part.substr(begin, end - begin + 1));
  }
  return parts;
}

// LFW separates by tabs; hand-made lists often by blanks.
std::vector<std::string> split_fields(const std::string& line) {
  if (line.find('\t') != std::string::npos) return split(line, '\t');
  std::vector<std::string> words;
  std::stringstream stream(line);
  for (std::string word; stream >> word;) words.push_back(word);
  return words;
}

std::optional<int64_t> whole_number(const std::string& text) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto result = std::from_chars(text.data(), end, value);
  if (result.ec != std::errc() || result.ptr != end) return std::nullopt;
  return value;
}

Pair parse_csv_line(const std::string& line, const std::string& place, int64_t rows) {
  const auto fields = split(line, ',');
  FT_CHECK(fields.size() == 4, "{}: wanted 'fold,i,j,same', found '{}'", place, line);
  int64_t number[4];
  for (int k = 0; k < 4; ++k) {
    const auto value = whole_number(fields[k]);
    FT_CHECK(value, "{}: wanted whole numbers 'fold,i,j,same', found '{}' in '{}'", place,
             fields[k], line);
    number[k] = *value;
  }
  for (int k = 1; k < 3; ++k)
    FT_CHECK(number[k] >= 0 && number[k] < rows,
             "{}: row {} is not there: the embeddings have rows 0 to {}", place, number[k],
             rows - 1);
  FT_CHECK(number[3] == 0 || number[3] == 1, "{}: wanted same = 0 or 1, found {}", place,
           number[3]);
  return {number[0], number[1], number[2], number[3] == 1};
}

// Names become rows in order of their first mention.
class ImageIndex {
 public:
  int64_t row(const std::string& name, const std::string& number, const Lines& at) {
    const std::string place = at.place();
    const auto n = whole_number(number);
    FT_CHECK(!name.empty() && name.find('/') == std::string::npos,
             "{}: '{}' is no name of a person", place, name);
    FT_CHECK(n && *n >= 0, "{}: wanted the number of an image, found '{}'", place, number);
    const std::string image = fmt::format("{0}/{0}_{1:04d}", name, *n);
    const auto [found, added] = rows_.try_emplace(image, static_cast<int64_t>(images.size()));
    if (added) {
      images.push_back(image);
      lines.push_back(at.number());
    }
    return found->second;
  }
  std::vector<std::string> images;
  std::vector<int64_t> lines;  // of their first mention

 private:
  std::map<std::string, int64_t> rows_;
};

}  // namespace

PairList read_csv_pairs(const fs::path& file, int64_t rows) {
  Lines lines(file);
  PairList pairs;
  bool first = true;
  for (std::string line; lines.next(line); first = false) {
    if (first && !whole_number(split(line, ',').front())) {  // the header, in this order
      FT_CHECK(split(line, ',') == (std::vector<std::string>{"fold", "i", "j", "same"}),
               "{}: wanted the header 'fold,i,j,same' or a pair, found '{}'", lines.place(), line);
      continue;
    }
    pairs.push_back(parse_csv_line(line, lines.place(), rows));
  }
  FT_CHECK(!pairs.empty(), "{}: no pairs; wanted lines 'fold,i,j,same'", file.string());
  return pairs;
}

NamedPairs read_lfw_pairs(const fs::path& file) {
  Lines lines(file);
  std::string line;
  FT_CHECK(lines.next(line), "{}: empty; wanted LFW's form: 'folds<TAB>n', then the pairs",
           file.string());
  const auto header = split_fields(line);
  // The one-fold lists of LFW's View 1 have only n.
  const auto folds = header.size() == 2 ? whole_number(header[0]) : std::optional<int64_t>(1);
  const auto per_class = whole_number(header.back());
  FT_CHECK(header.size() <= 2 && folds && per_class && *folds > 0 && *per_class > 0,
           "{}: wanted the header 'folds<TAB>n' (for example '10<TAB>300'), found '{}'",
           lines.place(), line);
  NamedPairs result;
  ImageIndex index;
  while (lines.next(line)) {
    const auto fields = split_fields(line);
    const std::string place = lines.place();
    FT_CHECK(fields.size() == 3 || fields.size() == 4,
             "{}: wanted 'name<TAB>a<TAB>b' or 'name1<TAB>a<TAB>name2<TAB>b', found '{}'", place,
             line);
    const bool same = fields.size() == 3;
    const int64_t first = index.row(fields[0], fields[1], lines);
    const int64_t second = index.row(same ? fields[0] : fields[2], fields.back(), lines);
    const int64_t fold = static_cast<int64_t>(result.pairs.size()) / (2 * *per_class);
    result.pairs.push_back({fold + 1, first, second, same});
  }
  FT_CHECK(static_cast<int64_t>(result.pairs.size()) == 2 * *folds * *per_class,
           "{}: the header says {} folds of 2 x {} pairs, that is {}; found {}", file.string(),
           *folds, *per_class, 2 * *folds * *per_class, result.pairs.size());
  result.images = std::move(index.images);
  result.lines = std::move(index.lines);
  return result;
}

PairList locate_pairs(const NamedPairs& named, const std::vector<std::string>& names,
                      const fs::path& file, const std::string& path) {
  std::map<std::string, int64_t> rows;  // "Ann/Ann_0001.jpg" is "Ann/Ann_0001"
  for (size_t row = 0; row < names.size(); ++row)
    rows.try_emplace(fs::path(names[row]).replace_extension().generic_string(),
                     static_cast<int64_t>(row));
  std::vector<int64_t> row_of(named.images.size());
  for (size_t k = 0; k < named.images.size(); ++k) {
    const auto found = rows.find(named.images[k]);
    FT_CHECK(found != rows.end(),
             "{}:{}: wanted the image '{}' (.jpg, .png ...), which is not in '{}' ({} images, the "
             "first is '{}'); mend the list, or name the folder that has the persons' folders",
             file.string(), named.lines[k], named.images[k], path, names.size(),
             names.empty() ? "" : names.front());
    row_of[k] = found->second;
  }
  PairList pairs = named.pairs;
  for (Pair& pair : pairs) {
    pair.first = row_of[static_cast<size_t>(pair.first)];
    pair.second = row_of[static_cast<size_t>(pair.second)];
  }
  return pairs;
}

bool is_csv_pairs(const fs::path& file) {
  Lines lines(file);
  std::string line;
  return lines.next(line) && line.find(',') != std::string::npos;
}

}  // namespace facetrain
