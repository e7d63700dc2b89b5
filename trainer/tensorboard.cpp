#include "trainer/tensorboard.h"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <chrono>
#include <cstring>
#include <span>

#include "core/check.h"
#include "core/protobuf.h"
#include "data/crc32c.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

static_assert(std::endian::native == std::endian::little);

// Field numbers of the messages.
namespace event {
constexpr int kWallTime = 1, kStep = 2, kFileVersion = 3, kSummary = 5, kSessionLog = 7;
}
constexpr int kSummaryValue = 1, kValueTag = 1, kValueNumber = 2, kSessionStatus = 1;
constexpr int64_t kSessionStart = 1;

constexpr std::string_view kPrefix = "events.out.tfevents.";

// A checksum of data that holds checksums itself is not to be trusted: TFRecord rotates and adds.
uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc =
      crc32c(std::span(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()));
  return std::rotr(crc, 15) + 0xa282ead8u;
}

template <class T>
void append(std::string& to, T value) {
  char bytes[sizeof value];
  std::memcpy(bytes, &value, sizeof value);
  to.append(bytes, sizeof value);
}

ProtobufWriter event_at(int64_t step) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  ProtobufWriter message;
  message.number(event::kWallTime, std::chrono::duration<double>(now).count());
  message.integer(event::kStep, step);
  return message;
}

// TensorBoard reads the files of a folder in the order of their names, so a start in the same
// second as the one before takes the next second.
int64_t seconds_for_name(const fs::path& run) {
  int64_t seconds = std::chrono::duration_cast<std::chrono::seconds>(
                        std::chrono::system_clock::now().time_since_epoch())
                        .count();
  for (const auto& item : fs::directory_iterator(run)) {
    const std::string name = item.path().filename().string();
    int64_t earlier = 0;
    if (!name.starts_with(kPrefix)) continue;
    std::from_chars(name.data() + kPrefix.size(), name.data() + name.size(), earlier);
    seconds = std::max(seconds, earlier + 1);
  }
  return seconds;
}

fs::path new_file(const fs::path& run) {
  char host[256] = "host";
  static_cast<void>(gethostname(host, sizeof host - 1));
  return run / fmt::format("{}{:010}.{}.{}", kPrefix, seconds_for_name(run), host, getpid());
}

}  // namespace

std::string tfrecord(std::string_view message) {
  std::string frame;
  append(frame, static_cast<uint64_t>(message.size()));
  append(frame, masked_crc(frame));
  frame += message;
  append(frame, masked_crc(message));
  return frame;
}

TensorboardWriter::TensorboardWriter(const fs::path& run, int64_t resumed_step)
    : file_(new_file(run)) {
  ProtobufWriter version = event_at(0);
  version.text(event::kFileVersion, "brain.Event:2");
  file_.append(tfrecord(version.bytes()));
  // A session that starts at a step makes TensorBoard drop that step and later ones of earlier
  // files.
  ProtobufWriter session, start = event_at(resumed_step + 1);
  session.integer(kSessionStatus, kSessionStart);
  start.message(event::kSessionLog, std::move(session));
  file_.append(tfrecord(start.bytes()));
}

void TensorboardWriter::scalars(int64_t step, const std::map<std::string, double>& values) {
  ProtobufWriter summary;
  for (const auto& [tag, number] : values) {
    ProtobufWriter value;
    value.text(kValueTag, tag);
    value.number(kValueNumber, static_cast<float>(number));
    summary.message(kSummaryValue, std::move(value));
  }
  ProtobufWriter message = event_at(step);
  message.message(event::kSummary, std::move(summary));
  file_.append(tfrecord(message.bytes()));
}

}  // namespace facetrain
