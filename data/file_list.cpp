#include "data/file_list.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <fstream>
#include <map>
#include <set>

#include "core/check.h"
#include "core/config.h"
#include "data/source.h"

namespace facetrain {
namespace {

namespace fs = std::filesystem;

constexpr const char* kImages = ".jpg .jpeg .png .pgm .ppm";

// Files that a set leaves out because of their names' endings.
struct Skipped {
  int64_t count = 0;
  fs::path first;  // in byte order
  void add(const fs::path& file) {
    if (count++ == 0 || file.generic_string() < first.generic_string()) first = file;
  }
  void tell(FileList& list) const {
    if (count > 0)
      list.warnings.push_back(fmt::format("skipped {} file{} not {} (first: {})", count,
                                          count == 1 ? " that is" : "s that are", kImages,
                                          first.generic_string()));
  }
};

bool is_hidden(const fs::path& path) { return path.filename().string().starts_with("."); }

// All images below a folder, by key, sorted.
std::map<std::string, int64_t> images_below(const fs::path& folder, const fs::path& root,
                                            Skipped& skipped) {
  std::map<std::string, int64_t> found;
  const auto options = fs::directory_options::follow_directory_symlink;
  for (auto at = fs::recursive_directory_iterator(folder, options);
       at != fs::recursive_directory_iterator(); ++at) {
    if (is_hidden(at->path())) {
      if (at->is_directory()) at.disable_recursion_pending();
    } else if (at->is_regular_file() && is_image(at->path())) {
      found[at->path().lexically_relative(root).generic_string()] =
          static_cast<int64_t>(at->file_size());
    } else if (at->is_regular_file()) {
      skipped.add(at->path());
    }
  }
  return found;
}

std::string last_part(const fs::path& path) {
  const fs::path whole = fs::absolute(path).lexically_normal();
  return (whole.has_filename() ? whole.filename() : whole.parent_path().filename()).string();
}

void add_identities(FileList& list, const std::vector<fs::path>& folders, Skipped& skipped) {
  int64_t identity = 0;
  for (const fs::path& folder : folders) {
    const auto images = images_below(folder, list.root, skipped);
    if (images.empty()) {
      list.warnings.push_back(fmt::format(
          "'{}' has no image ({}): skipped, it gets no class number", folder.string(), kImages));
      continue;
    }
    for (const auto& [key, bytes] : images) list.items.push_back({key, identity, bytes});
    ++identity;
  }
}

int64_t parse_label(const std::string& text, const std::string& place) {
  int64_t label = -1;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, label);
  FT_CHECK(error == std::errc() && stop == end && label >= 0,
           "{}: wanted a label that is a number >= 0, found '{}'", place, text);
  return label;
}

void check_folder(const fs::path& folder) {
  check_exists(folder);
  FT_CHECK(fs::is_directory(folder), "wanted a folder of images, found the file '{}'",
           folder.string());
}

}  // namespace

bool is_image(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  static const std::array<std::string, 5> known = {".jpg", ".jpeg", ".png", ".pgm", ".ppm"};
  return std::find(known.begin(), known.end(), extension) != known.end();
}

void check_exists(const fs::path& path) {
  if (fs::exists(path)) return;
  const fs::path whole = fs::absolute(path).lexically_normal();
  const fs::path clean = whole.has_filename() ? whole : whole.parent_path();
  std::vector<std::string> beside;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(clean.parent_path(), ignored))
    beside.push_back(entry.path().filename().string());
  std::sort(beside.begin(), beside.end());
  const std::string guess = config_detail::nearest(clean.filename().string(), beside);
  const std::string from =
      path.is_absolute() ? ""
                         : fmt::format(" (paths are relative to where facetrain is started: {})",
                                       fs::current_path(ignored).string());
  FT_CHECK(!guess.empty(), "there is no '{}': give a path that exists{}", path.string(), from);
  const fs::path near =
      (path.has_filename() ? path.parent_path() : path.parent_path().parent_path()) / guess;
  FT_FAIL("there is no '{}' (did you mean '{}'?){}", path.string(), near.string(), from);
}

FileList list_folder(const fs::path& folder) {
  check_folder(folder);
  FileList list{last_part(folder), folder, {}, {}};
  std::vector<fs::path> folders;
  std::map<std::string, int64_t> direct;
  Skipped skipped;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (is_hidden(entry.path())) continue;
    if (entry.is_directory())
      folders.push_back(entry.path());
    else if (entry.is_regular_file() && is_image(entry.path()))
      direct[entry.path().filename().string()] = static_cast<int64_t>(entry.file_size());
    else if (entry.is_regular_file())
      skipped.add(entry.path());
  }
  std::sort(folders.begin(), folders.end(), [](const fs::path& a, const fs::path& b) {
    return a.filename().string() < b.filename().string();
  });
  add_identities(list, folders, skipped);
  if (list.items.empty()) {
    for (const auto& [key, bytes] : direct) list.items.push_back({key, -1, bytes});
  } else if (!direct.empty()) {
    list.warnings.push_back(
        fmt::format("{} images directly in '{}' are ignored: each belongs into the folder of its "
                    "identity",
                    direct.size(), folder.string()));
  }
  skipped.tell(list);
  FT_CHECK(!list.items.empty(),
           "'{}' has no image ({}): wanted one folder an identity with its images", folder.string(),
           kImages);
  return list;
}

FileList list_images(const fs::path& folder) {
  check_folder(folder);
  FileList list{last_part(folder), folder, {}, {}};
  Skipped skipped;
  for (const auto& [key, bytes] : images_below(folder, folder, skipped))
    list.items.push_back({key, -1, bytes});
  skipped.tell(list);
  FT_CHECK(!list.items.empty(), "'{}' has no image ({})", folder.string(), kImages);
  return list;
}

FileList read_list(const fs::path& file) {
  check_exists(file);
  std::ifstream in(file);
  FT_CHECK(in && !fs::is_directory(file), "cannot read the list file '{}'", file.string());
  const fs::path root = file.has_parent_path() ? file.parent_path() : fs::path(".");
  FileList list{file.stem().string(), root, {}, {}};
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.ends_with('\r')) line.pop_back();
    if (line.empty()) continue;
    const std::string place = fmt::format("{}:{}", file.string(), number);
    const size_t tab = line.rfind('\t');
    FT_CHECK(tab != std::string::npos && tab > 0, "{}: wanted `path<TAB>label`, found '{}'", place,
             line);
    FileList::Item item{line.substr(0, tab), parse_label(line.substr(tab + 1), place), 0};
    std::error_code error;
    item.bytes = static_cast<int64_t>(fs::file_size(list.file(item), error));
    FT_CHECK(!error, "{}: cannot read '{}': {}", place, list.file(item).string(), error.message());
    list.items.push_back(std::move(item));
  }
  FT_CHECK(!list.items.empty(), "the list file '{}' names no image: wanted lines `path<TAB>label`",
           file.string());
  return list;
}

std::string list_gaps(const FileList& list) {
  constexpr size_t kShown = 10;
  std::set<int64_t> labels;
  for (const auto& item : list.items)
    if (item.identity >= 0) labels.insert(item.identity);
  if (labels.empty()) return "";  // nothing is labelled
  const int64_t gaps = *labels.rbegin() + 1 - static_cast<int64_t>(labels.size());
  std::vector<int64_t> first;
  int64_t next = 0;
  for (const int64_t label : labels) {
    for (; next < label && first.size() < kShown; ++next) first.push_back(next);
    next = label + 1;
  }
  return list_some(first, gaps);
}

std::vector<uint8_t> read_bytes(const fs::path& file) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  FT_CHECK(in && fs::is_regular_file(file), "cannot read '{}'", file.string());
  std::vector<uint8_t> bytes(static_cast<size_t>(in.tellg()));
  in.seekg(0);
  in.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  FT_CHECK(in, "cannot read the {} bytes of '{}'", bytes.size(), file.string());
  return bytes;
}

}  // namespace facetrain
