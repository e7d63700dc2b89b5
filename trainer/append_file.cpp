#include "trainer/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/check.h"
#include "core/log.h"

namespace facetrain {

AppendFile::AppendFile(std::filesystem::path path) : path_(std::move(path)) {
  descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  FT_CHECK(descriptor_ >= 0, "{}: cannot write: {}; check the folder's permissions and space",
           path_.string(), std::strerror(errno));
  length_ = lseek(descriptor_, 0, SEEK_END);
}

AppendFile::~AppendFile() { close(descriptor_); }

bool AppendFile::append(std::string_view record) {
  size_t written = 0;
  while (written < record.size()) {
    const ssize_t part = write(descriptor_, record.data() + written, record.size() - written);
    if (part < 0 && errno == EINTR) continue;
    if (part <= 0) {
      const int reason = errno;
      // Half a record would spoil the next one. Making a file shorter needs no space.
      const bool restored = written == 0 || ftruncate(descriptor_, length_) == 0;
      if (!failing_)
        log_warn("{}: a record could not be written: {}; training goes on without it{}",
                 path_.string(), std::strerror(reason),
                 restored ? "" : ", and the file ends in half a record");
      failing_ = true;
      return false;
    }
    written += static_cast<size_t>(part);
  }
  length_ += static_cast<int64_t>(record.size());
  failing_ = false;
  return true;
}

std::string json_line(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace facetrain
