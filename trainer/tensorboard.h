// TensorBoard event files: TFRecord frames of Event messages, without TensorFlow.
//
// Formats: tensorflow/core/util/event.proto, summary.proto and lib/io/record_writer.h. A frame is
// the length of the message (uint64), its masked CRC-32C, the message, the message's masked
// CRC-32C, all little-endian.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "trainer/append_file.h"

namespace facetrain {

class TensorboardWriter {
 public:
  // Starts a new file `events.out.tfevents.<seconds>.<host>.<process>` in the run folder; its name
  // sorts behind those of earlier starts of the run. Its first events tell TensorBoard to forget
  // what they say of steps after `resumed_step`. Throws when it cannot be written.
  TensorboardWriter(const std::filesystem::path& run, int64_t resumed_step);

  // One event with a value per tag; NaN and infinity are kept, the precision is float32. A file
  // that cannot take it (disk full) keeps its earlier events, with a warning.
  void scalars(int64_t step, const std::map<std::string, double>& values);
  const std::filesystem::path& path() const { return file_.path(); }

 private:
  AppendFile file_;
};

// One frame of a TFRecord file.
std::string tfrecord(std::string_view message);

}  // namespace facetrain
