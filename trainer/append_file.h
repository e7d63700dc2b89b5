// A log that only grows: a record stands in it whole or not at all.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace facetrain {

class AppendFile {
 public:
  // Opens, or makes, `path` and appends to what is there. Throws with its name when that cannot be.
  explicit AppendFile(std::filesystem::path path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  // Hands `record` to the system at once. False when not all of it could be written (disk full):
  // then the file is as it was before; the first time in a row a warning names it.
  bool append(std::string_view record);
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  int64_t length_ = 0;  // of whole records
  bool failing_ = false;
};

// JSON as one line. Names of files and sets may be of any bytes, JSON may not: those are replaced.
std::string json_line(const nlohmann::ordered_json& json);

}  // namespace facetrain
