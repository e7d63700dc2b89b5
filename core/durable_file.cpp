#include "core/durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "core/check.h"

namespace facetrain {
namespace fs = std::filesystem;

DurableFile::DurableFile(const fs::path& target) : target_(target), temporary_(target) {
  temporary_ += ".tmp";
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  check(descriptor_ >= 0, "create");
}

DurableFile::~DurableFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  if (!published_) ::unlink(temporary_.c_str());
}

void DurableFile::write(const void* data, uint64_t bytes, uint64_t offset) {
  constexpr uint64_t kLargest = uint64_t{1} << 30;  // the system takes at most 2^31 bytes a call
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done =
        ::pwrite(descriptor_, from, std::min(bytes, kLargest), static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    check(done > 0, "write");
    from += done;
    offset += static_cast<uint64_t>(done);
    bytes -= static_cast<uint64_t>(done);
  }
}

void DurableFile::publish() {
  check(::fsync(descriptor_) == 0, "write");
  rename_durably(temporary_, target_);
  published_ = true;
}

void DurableFile::check(bool ok, const char* action) const {
  FT_CHECK(ok, "{}: cannot {}: {}; check the folder, its permissions and the free space",
           target_.string(), action, std::strerror(errno));
}

void sync_folder(const fs::path& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  FT_CHECK(descriptor >= 0, "{}: cannot open this folder: {}", folder.string(),
           std::strerror(errno));
  ::fsync(descriptor);  // some file systems refuse it for folders; nothing can be done then
  ::close(descriptor);
}

void rename_durably(const fs::path& from, const fs::path& to) {
  FT_CHECK(std::rename(from.c_str(), to.c_str()) == 0, "cannot rename {} to {}: {}", from.string(),
           to.string(), std::strerror(errno));
  sync_folder(to.has_parent_path() ? to.parent_path() : fs::path("."));
}

void check_writable(const fs::path& file) {
  FT_CHECK(!fs::is_directory(file), "{} is a folder; wanted the name of a file", file.string());
  const fs::path folder = file.has_parent_path() ? file.parent_path() : fs::path(".");
  FT_CHECK(fs::is_directory(folder), "{}: there is no folder {}; make it first", file.string(),
           folder.string());
  const DurableFile probe(file);  // unpublished, it leaves nothing behind
}

void write_file_durably(const fs::path& file, const std::string& content) {
  DurableFile out(file);
  out.write(content.data(), content.size(), 0);
  out.publish();
}

}  // namespace facetrain
