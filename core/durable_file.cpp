#include "core/durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "core/check.h"

namespace facetrain {
namespace fs = std::filesystem;

void sync_folder(const fs::path& folder) {
  const int descriptor = open(folder.c_str(), O_RDONLY | O_DIRECTORY);
  FT_CHECK(descriptor >= 0, "{}: cannot open this folder: {}", folder.string(), std::strerror(errno));
  fsync(descriptor);  // some file systems refuse it for folders; nothing can be done then
  close(descriptor);
}

void rename_durably(const fs::path& from, const fs::path& to) {
  FT_CHECK(std::rename(from.c_str(), to.c_str()) == 0, "cannot rename {} to {}: {}", from.string(), to.string(),
           std::strerror(errno));
  sync_folder(to.has_parent_path() ? to.parent_path() : fs::path("."));
}

void write_file_durably(const fs::path& file, const std::string& content) {
  fs::path temporary = file;
  temporary += ".tmp";
  const int descriptor = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  FT_CHECK(descriptor >= 0, "{}: cannot write: {}; check the folder and its permissions", file.string(), std::strerror(errno));
  size_t written = 0;
  int failure = 0;
  while (written < content.size() && failure == 0) {
    const ssize_t n = write(descriptor, content.data() + written, content.size() - written);
    if (n < 0 && errno != EINTR) failure = errno;
    if (n > 0) written += static_cast<size_t>(n);
  }
  if (failure == 0 && fsync(descriptor) != 0) failure = errno;
  close(descriptor);
  if (failure != 0) {
    unlink(temporary.c_str());
    FT_FAIL("{}: cannot write: {}; free some space or choose another folder", file.string(), std::strerror(failure));
  }
  rename_durably(temporary, file);
}

}  // namespace facetrain
