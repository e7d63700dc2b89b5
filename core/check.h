// The one exception type of the program, and the two ways to throw it.
//
// FT_CHECK never disappears in a release build. A message says what was wanted, what was found and
// what to do. Nobody catches an Error to carry on with a rank of its own: main() prints it once and
// ends the whole job.
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <stdexcept>
#include <string>
#include <utility>

namespace facetrain {

// A failure with the place that found it. `what()` is the message alone; `place()` is "file:line"
// of the check.
class Error : public std::runtime_error {
 public:
  Error(const char* file, int line, const std::string& message)
      : std::runtime_error(message), place_(fmt::format("{}:{}", file, line)) {}
  const std::string& place() const { return place_; }

 private:
  std::string place_;
};

}  // namespace facetrain

// Throws an Error with a formatted message.
#define FT_FAIL(...) throw ::facetrain::Error(FT_FILE, __LINE__, fmt::format(__VA_ARGS__))

// Throws an Error with a formatted message unless `condition` holds.
#define FT_CHECK(condition, ...)            \
  do {                                      \
    if (!(condition)) FT_FAIL(__VA_ARGS__); \
  } while (false)

// The path of the source file from the root of the tree (set by CMake through -fmacro-prefix-map).
#define FT_FILE __FILE__
