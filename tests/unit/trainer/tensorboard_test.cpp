// Event files, read back frame by frame as the formats say; files that only grow. The real
// tensorboard package reads them in tests/e2e/test_report.py.
#include "trainer/tensorboard.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>

#include "core/protobuf.h"
#include "data/crc32c.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

std::string content(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

template <class T>
T at(const std::string& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof value);
  return value;
}

uint32_t checksum(std::string_view bytes) {
  return crc32c_portable({reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size()});
}

struct Event {
  double wall_time = 0;
  int64_t step = 0;
  std::string version;
  int64_t session = -1;
  std::map<std::string, float> values;
};

Event parse_event(std::string_view message) {
  Event event;
  ProtobufReader fields(message);
  while (const auto field = fields.next()) {
    if (field->field == 1) event.wall_time = field->double_number();
    if (field->field == 2) event.step = field->integer();
    if (field->field == 3) event.version = field->text();
    if (field->field == 7) event.session = ProtobufReader(field->bytes()).next()->integer();
    if (field->field != 5) continue;
    ProtobufReader summary(field->bytes());
    while (const auto value = summary.next()) {
      ProtobufReader parts(value->bytes());
      const auto tag = parts.next(), number = parts.next();
      EXPECT_EQ(tag->field, 1);
      EXPECT_EQ(number->field, 2);
      event.values[tag->text()] = number->float_number();
    }
  }
  return event;
}

std::vector<Event> read_events(const fs::path& file) {
  const std::string bytes = content(file);
  std::vector<Event> events;
  for (size_t offset = 0; offset < bytes.size();) {
    const auto length = at<uint64_t>(bytes, offset);
    EXPECT_LE(offset + 16 + length, bytes.size());
    events.push_back(parse_event(std::string_view(bytes).substr(offset + 12, length)));
    offset += 16 + length;
  }
  return events;
}

std::vector<fs::path> event_files(const fs::path& run) {
  std::set<fs::path> sorted;
  for (const auto& item : fs::directory_iterator(run)) sorted.insert(item.path());
  return {sorted.begin(), sorted.end()};
}

TEST(Tensorboard, FramesAreTfRecords) {
  const std::string message = "a message", frame = tfrecord(message);
  ASSERT_EQ(frame.size(), 8 + 4 + message.size() + 4);
  EXPECT_EQ(at<uint64_t>(frame, 0), message.size());
  EXPECT_EQ(frame.substr(12, message.size()), message);
  // Undoing the mask gives the checksum: rotate left of (masked - constant).
  const auto unmask = [](uint32_t masked) {
    const uint32_t rotated = masked - 0xa282ead8u;
    return rotated >> 17 | rotated << 15;
  };
  EXPECT_EQ(unmask(at<uint32_t>(frame, 8)), checksum(frame.substr(0, 8)));
  EXPECT_EQ(unmask(at<uint32_t>(frame, 12 + message.size())), checksum(message));
}

TEST(Tensorboard, WritesVersionSessionAndScalars) {
  const TemporaryFolder folder;
  {
    TensorboardWriter writer(folder.path(), 0);
    writer.scalars(7, {{"train/loss", 1.25}, {"eval/lfw.tar@far=0.001", NAN}});
  }
  const auto files = event_files(folder.path());
  ASSERT_EQ(files.size(), 1u);
  EXPECT_EQ(files[0].filename().string().rfind("events.out.tfevents.", 0), 0u);
  const auto events = read_events(files[0]);
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_EQ(events[1].session, 1);
  EXPECT_EQ(events[1].step, 1);
  EXPECT_EQ(events[2].step, 7);
  EXPECT_GE(events[2].wall_time, events[0].wall_time);
  EXPECT_EQ(events[2].values.at("train/loss"), 1.25f);
  EXPECT_TRUE(std::isnan(events[2].values.at("eval/lfw.tar@far=0.001")));
}

TEST(Tensorboard, AResumeStartsALaterFileThatForgetsLaterSteps) {
  const TemporaryFolder folder;
  std::vector<fs::path> in_order_of_time;
  for (const int64_t step : {0, 4, 4, 9})  // within one second
    in_order_of_time.push_back(TensorboardWriter(folder.path(), step).path());
  EXPECT_EQ(event_files(folder.path()), in_order_of_time);
  const auto events = read_events(in_order_of_time.back());
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].session, 1);
  EXPECT_EQ(events[1].step, 10);
}

TEST(Tensorboard, SaysWhenItCannotWrite) {
  expect_error([] { TensorboardWriter("/proc/self", 0); }, {"/proc/self", "cannot write"});
}

// A limit on the size of files stands for a full disk, for the time of a scope.
class FullDisk {
 public:
  explicit FullDisk(uint64_t bytes) {
    std::signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before_);
    rlimit now = before_;
    now.rlim_cur = bytes;
    setrlimit(RLIMIT_FSIZE, &now);
  }
  ~FullDisk() { setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_{};
};

TEST(AppendFile, KeepsWholeRecordsOnly) {
  const TemporaryFolder folder;
  AppendFile file(folder.path() / "log");
  EXPECT_TRUE(file.append("0123456789\n"));
  {
    const FullDisk full(16);
    EXPECT_FALSE(file.append("half of this fits\n"));
    EXPECT_EQ(content(file.path()), "0123456789\n");
    EXPECT_FALSE(file.append("half of this fits\n"));
    EXPECT_TRUE(file.append("ok\n"));
  }
  EXPECT_TRUE(file.append("there is room again\n"));
  EXPECT_EQ(content(file.path()), "0123456789\nok\nthere is room again\n");
}

TEST(AppendFile, GoesOnWhereTheFileEnds) {
  const TemporaryFolder folder;
  EXPECT_TRUE(AppendFile(folder.path() / "log").append("one\n"));
  EXPECT_TRUE(AppendFile(folder.path() / "log").append("two\n"));
  EXPECT_EQ(content(folder.path() / "log"), "one\ntwo\n");
  expect_error([&] { AppendFile(folder.path() / "none" / "log"); },
               {"none/log", "cannot write", "No such file"});
}

}  // namespace
}  // namespace facetrain
