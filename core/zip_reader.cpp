#include "core/zip_reader.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "core/check.h"

namespace facetrain {
namespace {

// Signatures and sizes of APPNOTE.TXT 4.3.
constexpr uint32_t kLocalHeader = 0x04034b50, kCentralHeader = 0x02014b50, kEnd = 0x06054b50,
                   kEnd64 = 0x06064b50, kEnd64Locator = 0x07064b50;
constexpr uint64_t kLocalSize = 30, kCentralSize = 46, kEndSize = 22, kEnd64Size = 56,
                   kLocatorSize = 20, kMaxComment = 65535;
constexpr uint16_t kZip64Extra = 1, kEncrypted = 1;
constexpr uint32_t kSeeZip64 = 0xffffffff;
constexpr uint64_t kMaxEntries = 1 << 20;

template <class T>
T number(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof(T));
  return value;
}

// Replaces the fields that say "see zip64" by those of the extra field, which come in this order.
bool widen(std::string_view extra, std::initializer_list<uint64_t*> fields) {
  const auto wanted = std::count_if(fields.begin(), fields.end(),
                                    [](const uint64_t* field) { return *field == kSeeZip64; });
  if (wanted == 0) return true;
  while (extra.size() >= 4) {
    const auto id = number<uint16_t>(extra, 0), length = number<uint16_t>(extra, 2);
    extra.remove_prefix(4);
    if (length > extra.size()) return false;
    if (id == kZip64Extra) {
      if (length < 8 * wanted) return false;
      size_t at = 0;
      for (uint64_t* field : fields)
        if (*field == kSeeZip64) *field = number<uint64_t>(extra, at), at += 8;
      return true;
    }
    extra.remove_prefix(length);
  }
  return false;
}

}  // namespace

ZipReader::ZipReader(const std::filesystem::path& file) : file_(file, "zip archive") {
  const Directory directory = find_directory();
  FT_CHECK(directory.begin <= file_.size() && directory.size <= file_.size() - directory.begin &&
               directory.entries <= directory.size / kCentralSize &&
               directory.entries <= kMaxEntries,
           "{}: not a sound zip archive: its directory of {} entries does not fit the file",
           file.string(), directory.entries);
  parse(file_.read(directory.size, directory.begin, "its directory"), directory.entries);
}

ZipReader::Directory ZipReader::find_directory() const {
  const std::string path = file_.path().string();
  const uint64_t length = std::min(file_.size(), kEndSize + kMaxComment);
  const uint64_t begin = file_.size() - length;
  const std::string tail = file_.read(length, begin, "its end");
  for (uint64_t at = length >= kEndSize ? length - kEndSize + 1 : 0; at-- > 0;) {
    if (number<uint32_t>(tail, at) != kEnd ||
        at + kEndSize + number<uint16_t>(tail, at + 20) != length)
      continue;
    const Directory small{number<uint16_t>(tail, at + 10), number<uint32_t>(tail, at + 16),
                          number<uint32_t>(tail, at + 12)};
    const bool wide =
        small.entries == 0xffff || small.begin == kSeeZip64 || small.size == kSeeZip64;
    if (!wide) return small;
    FT_CHECK(at >= kLocatorSize && number<uint32_t>(tail, at - kLocatorSize) == kEnd64Locator,
             "{}: not a sound zip archive: it has no zip64 directory", path);
    const std::string end = file_.read(kEnd64Size, number<uint64_t>(tail, at - kLocatorSize + 8),
                                       "its zip64 directory");
    FT_CHECK(number<uint32_t>(end, 0) == kEnd64,
             "{}: not a sound zip archive: it has no zip64 directory", path);
    return {number<uint64_t>(end, 32), number<uint64_t>(end, 48), number<uint64_t>(end, 40)};
  }
  FT_FAIL(
      "{}: not a sound zip archive: it has no directory at its end; it is truncated: copy it again",
      path);
}

void ZipReader::parse(const std::string& directory, uint64_t count) {
  std::string_view rest = directory;
  for (uint64_t i = 0; i < count; ++i) {
    const bool header = rest.size() >= kCentralSize && number<uint32_t>(rest, 0) == kCentralHeader;
    const uint64_t name = header ? number<uint16_t>(rest, 28) : 0;
    const uint64_t extra = header ? number<uint16_t>(rest, 30) : 0;
    const uint64_t comment = header ? number<uint16_t>(rest, 32) : 0;
    FT_CHECK(header && name + extra + comment <= rest.size() - kCentralSize,
             "{}: not a sound zip archive: entry {} of its directory is damaged",
             file_.path().string(), i);
    add(rest, rest.substr(kCentralSize, name), rest.substr(kCentralSize + name, extra));
    rest.remove_prefix(kCentralSize + name + extra + comment);
  }
}

void ZipReader::add(std::string_view header, std::string_view name, std::string_view extra) {
  const std::string where = fmt::format("{}: entry '{}'", file_.path().string(), name);
  const auto method = number<uint16_t>(header, 10);
  uint64_t stored = number<uint32_t>(header, 20), size = number<uint32_t>(header, 24),
           offset = number<uint32_t>(header, 42);
  FT_CHECK(widen(extra, {&size, &stored, &offset}), "{}: its zip64 sizes are damaged", where);
  FT_CHECK((number<uint16_t>(header, 8) & kEncrypted) == 0, "{}: is encrypted", where);
  const std::string local = file_.read(kLocalSize + name.size(), offset, where);
  FT_CHECK(number<uint32_t>(local, 0) == kLocalHeader &&
               number<uint16_t>(local, 26) == name.size() && local.substr(kLocalSize) == name,
           "{}: the directory points to something else", where);
  const uint64_t begin = offset + kLocalSize + name.size() + number<uint16_t>(local, 28);
  FT_CHECK(begin <= file_.size() && stored <= file_.size() - begin,
           "{}: its {} bytes end behind the file; it is truncated: copy it again", where, stored);
  FT_CHECK(method != 0 || stored == size, "{}: is stored, yet of sizes {} and {}", where, stored,
           size);
  if (method != 0) compressed_.emplace(name, method);
  FT_CHECK(entries_.emplace(name, ZipEntry{begin, stored, number<uint32_t>(header, 16)}).second,
           "{}: stands in the archive twice", where);
}

const ZipEntry& ZipReader::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  FT_CHECK(found != entries_.end(), "{}: the archive has no entry '{}'", file_.path().string(),
           name);
  if (const auto method = compressed_.find(name); method != compressed_.end())
    FT_FAIL(
        "{}: entry '{}' is compressed (method {}), which torch.save never does: unpack the archive "
        "and zip it with stored entries (zip -0), or save the weights again",
        file_.path().string(), name, method->second);
  return found->second;
}

std::string ZipReader::read(const std::string& name, uint64_t limit) const {
  const ZipEntry& found = entry(name);
  const std::string what = fmt::format("entry '{}'", name);
  FT_CHECK(found.size <= limit, "{}: {} has {} bytes; this reader takes up to {}",
           file_.path().string(), what, found.size, limit);
  std::string bytes = file_.read(found.size, found.begin, what);
  check_crc(bytes.data(), bytes.size(), found.crc, file_.path().string() + ": " + what);
  return bytes;
}

void check_crc(const void* bytes, uint64_t size, uint32_t expected, const std::string& what) {
  if (expected == 0) return;
  const auto found = static_cast<uint32_t>(crc32_z(0, static_cast<const Bytef*>(bytes), size));
  FT_CHECK(found == expected,
           "{}: its bytes have the checksum {:08x}, the archive says {:08x}; the file is damaged: "
           "copy or save it again",
           what, found, expected);
}

}  // namespace facetrain
