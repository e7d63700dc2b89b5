#include "trainer/session.h"

#include <H5public.h>
#include <sys/utsname.h>
#include <torch/version.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <nlohmann/json.hpp>
#include <span>
#include <thread>

#include "core/log.h"

namespace facetrain {
namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

std::string processor() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name") && line.find(": ") != std::string::npos)
      return line.substr(line.find(": ") + 2);
  return "unknown";
}

std::string compiler() {
#ifdef __clang__
  return "Clang " __clang_version__;
#else
  return "GCC " __VERSION__;
#endif
}

std::string hdf5_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

std::string host_name() {
  char name[256] = "unknown";
  static_cast<void>(gethostname(name, sizeof name - 1));
  return name;
}

// 1234567 -> "1,234,567".
std::string grouped(int64_t number) {
  const std::string digits = std::to_string(number);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string millions(int64_t number) {
  return number < 1'000'000 ? grouped(number)
                            : fmt::format("{:.2f} M", static_cast<double>(number) / 1e6);
}

std::string frozen_text(const std::vector<std::string>& names) {
  if (names.empty()) return "";
  constexpr size_t kShown = 2;
  const auto shown = std::span(names).first(std::min(kShown, names.size()));
  // The scale after an IResNet's last batch norm, which its authors never train.
  const bool as_published = names.size() == 1 && names.front().ends_with("features.weight");
  return fmt::format(", {} tensor{} frozen ({}{}{})", names.size(), names.size() == 1 ? "" : "s",
                     fmt::join(shown, ", "), names.size() > kShown ? ", ..." : "",
                     as_published ? ", as in arcface_torch" : "");
}

}  // namespace

void print_banner(const RunFacts& facts) {
  log_info("facetrain {}", facts.program);
  log_info("place     {}", facts.place);
  log_info("data      {}: {} images of {} identities at {} px", fmt::join(facts.sets, ", "),
           grouped(facts.images), grouped(facts.identities), facts.image_size);
  if (facts.classes > 0)
    log_info("classes   {}, spread over {} rank{}", grouped(facts.classes), facts.ranks,
             facts.ranks == 1 ? "" : "s");
  log_info("network   {}: {} parameters and {} in sharded rows{}; {}", facts.network,
           millions(facts.parameters), millions(facts.sharded), frozen_text(facts.frozen),
           facts.precision);
  log_info("batch     {} images over all ranks{}", facts.batch_size,
           facts.accumulate > 1 ? fmt::format(", in {} micro-batches", facts.accumulate) : "");
  log_info("training  {}{}, {} lr {:g}, schedule {}: {} steps = {:.2f} epochs", facts.recipe,
           facts.loss.empty() ? "" : " with " + facts.loss, facts.optimizer, facts.lr,
           facts.schedule, grouped(facts.steps),
           static_cast<double>(facts.steps) / facts.steps_per_epoch);
  for (const auto& group : facts.groups) log_info("group     {}", group);
  log_info("eval      {}", facts.evaluation_sets.empty()
                               ? "none (eval.sets)"
                               : fmt::format("{}, every {}", fmt::join(facts.evaluation_sets, ", "),
                                             facts.evaluate_every));
  log_info("run       {}: checkpoints {}", facts.run,
           facts.checkpoint_every.empty() ? "at the end" : "every " + facts.checkpoint_every);
}

nlohmann::ordered_json describe_session(const RunFacts& facts) {
  utsname system{};
  uname(&system);
  return {
      {"program", facts.program},
      {"place", facts.place},
      {"ranks", facts.ranks},
      {"threads", facts.threads},
      {"device", facts.device},
      {"host", host_name()},
      {"processor", processor()},
      {"cores", std::thread::hardware_concurrency()},
      {"system", fmt::format("{} {}", system.sysname, system.release)},
      {"libraries", {{"torch", TORCH_VERSION}, {"hdf5", hdf5_version()}, {"compiler", compiler()}}},
      {"recipe", facts.recipe},
      {"loss", facts.loss},
      {"network", facts.network},
      {"parameters", facts.parameters},
      {"sharded_parameters", facts.sharded},
      {"frozen_tensors", facts.frozen.size()},
      {"precision", facts.precision},
      {"data", facts.sets},
      {"images", facts.images},
      {"identities", facts.identities},
      {"classes", facts.classes},
      {"groups", facts.groups},
      {"batch_size", facts.batch_size},
      {"steps", facts.steps},
      {"steps_per_epoch", facts.steps_per_epoch}};
}

SessionLog::SessionLog(const RunFacts& facts, int rank, int64_t step) {
  if (rank != 0) return;
  file_ = std::make_unique<AppendFile>(std::filesystem::path(facts.run) / "sessions.jsonl");
  nlohmann::ordered_json line{{"event", "start"}, {"time", utc_now()}, {"step", step}};
  line.update(describe_session(facts));
  file_->append(json_line(line));
}

void SessionLog::end(int64_t step, const std::string& how) {
  if (!file_) return;
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  const nlohmann::ordered_json line{
      {"event", "end"}, {"time", utc_now()}, {"step", step}, {"how", how}, {"seconds", seconds}};
  file_->append(json_line(line));
}

}  // namespace facetrain
