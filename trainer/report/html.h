// Pieces of a page: text made safe, bytes in a link.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace facetrain {

// For text and for attribute values in either kind of quotes. Bytes that are not UTF-8 and control
// characters become U+FFFD.
std::string escape_html(std::string_view text);

// A relative path as a link: every byte that is not plain becomes %XX, so that a browser looks for
// that file and for nothing else.
std::string escape_path(std::string_view path);

// "data:image/jpeg;base64,...".
std::string data_uri(std::string_view media_type, std::span<const uint8_t> bytes);

}  // namespace facetrain
