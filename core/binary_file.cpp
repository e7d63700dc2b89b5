#include "core/binary_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/check.h"

namespace facetrain {
namespace {
constexpr uint64_t kMaxTransfer = uint64_t{1} << 30;
}

BinaryFile::BinaryFile(const std::filesystem::path& file, const std::string& kind) : path_(file) {
  const int opened = ::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  FT_CHECK(opened >= 0, "{}: cannot open this {}: {}", file.string(), kind, std::strerror(errno));
  struct stat status {};
  if (::fstat(opened, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(opened);
    FT_FAIL("{}: wanted a {}, found something that is no plain file", file.string(), kind);
  }
  descriptor_ = opened;
  size_ = static_cast<uint64_t>(status.st_size);
}

BinaryFile::~BinaryFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void BinaryFile::read(void* data, uint64_t bytes, uint64_t offset, const std::string& what) const {
  char* to = static_cast<char*>(data);
  while (bytes > 0) {
    const ssize_t done =
        ::pread(descriptor_, to, std::min(bytes, kMaxTransfer), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    FT_CHECK(done >= 0, "{}: cannot read {}: {}", path_.string(), what, std::strerror(errno));
    FT_CHECK(done > 0, "{}: the file ends inside {}; it is truncated: copy or write it again",
             path_.string(), what);
    to += done;
    offset += static_cast<uint64_t>(done);
    bytes -= static_cast<uint64_t>(done);
  }
}

std::string BinaryFile::read(uint64_t bytes, uint64_t offset, const std::string& what) const {
  FT_CHECK(offset <= size_ && bytes <= size_ - offset,
           "{}: the file ends inside {}; it is truncated: copy or write it again", path_.string(),
           what);
  std::string text(bytes, '\0');
  read(text.data(), bytes, offset, what);
  return text;
}

}  // namespace facetrain
