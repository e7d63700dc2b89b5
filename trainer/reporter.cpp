#include "trainer/reporter.h"

#include <sys/resource.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/check.h"
#include "core/durable_file.h"
#include "core/log.h"

namespace facetrain {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// NaN and infinity are not JSON; null is what a reader of the curve expects for a step without a
// finite value.
nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

std::string duration_text(double seconds) {
  const auto total = static_cast<int64_t>(seconds);
  if (total >= 3600) return fmt::format("{}h{:02}m", total / 3600, total / 60 % 60);
  return fmt::format("{}m{:02}s", total / 60, total % 60);
}

double peak_memory_gb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / (1 << 20);
}

// Drops lines of steps that a resumed run will do again, so that the curve has each step once.
void drop_lines_after(const std::filesystem::path& file, int64_t step) {
  std::ifstream in(file);
  if (!in) return;
  std::ostringstream kept;
  bool dropped = false;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    const bool keep = json.is_object() && json.contains("step") &&
                      json["step"].is_number_integer() && json["step"].get<int64_t>() <= step;
    if (keep)
      kept << line << '\n';
    else
      dropped = true;
  }
  if (dropped) write_file_durably(file, kept.str());
}

}  // namespace

Reporter::Reporter(const std::filesystem::path& run, int rank, int64_t resumed_step)
    : path_(run / "metrics.jsonl"), rank_(rank), since_(Clock::now()), step_since_(resumed_step) {
  if (rank_ != 0) return;
  drop_lines_after(path_, resumed_step);
  file_.open(path_, std::ios::app);
  FT_CHECK(file_, "{}: cannot write; check the folder's permissions and space", path_.string());
}

void Reporter::restart_clock(int64_t step, int64_t samples) {
  since_ = Clock::now();
  step_since_ = step;
  samples_since_ = samples;
}

void Reporter::append(const std::string& line) {
  file_ << line << '\n' << std::flush;
  if (file_) return;
  file_.clear();
  log_warn("{}: a line could not be written (disk full?); training goes on", path_.string());
}

void Reporter::log(Line line, int64_t total_steps) {
  if (rank_ != 0) return;
  const double seconds = seconds_since(since_);
  const double rate = static_cast<double>(line.samples - samples_since_) / std::max(seconds, 1e-9);
  const double step_seconds =
      seconds / static_cast<double>(std::max<int64_t>(line.step - step_since_, 1));
  nlohmann::ordered_json json{{"step", line.step}, {"epoch", line.epoch}};
  for (const auto& [name, value] : line.means) json[name] = number(value);
  json["lr"] = line.lr;
  json["samples_per_second"] = rate;
  json["samples"] = line.samples;
  json["gradient_norm"] = number(line.gradient_norm);
  json["skipped_steps"] = line.skipped_steps;
  if (line.skipped_samples > 0) json["skipped_samples"] = line.skipped_samples;
  if (line.loss_scale != 1) json["loss_scale"] = line.loss_scale;
  json["data_wait"] = line.data_wait / std::max(seconds, 1e-9);
  json["memory_gb"] = peak_memory_gb();
  append(json.dump());
  const double remaining = static_cast<double>(total_steps - line.step) * step_seconds;
  const std::string text = fmt::format(
      "step {}/{}  epoch {:.2f}  loss {:.4f}  lr {:.3g}  {:.0f} img/s  data {:.0f} %  {:.1f} GB  "
      "ETA {}{}",
      line.step, total_steps, line.epoch, line.means.contains("loss") ? line.means.at("loss") : NAN,
      line.lr, rate, 100 * line.data_wait / std::max(seconds, 1e-9), peak_memory_gb(),
      duration_text(remaining),
      line.skipped_steps > 0 ? fmt::format("  skipped {}", line.skipped_steps) : "");
  if (log_is_terminal())
    log_progress(text);
  else
    log_line(text);
  restart_clock(line.step, line.samples);
}

void Reporter::evaluation(int64_t step, const std::map<std::string, double>& figures,
                          double seconds) {
  if (rank_ != 0) return;
  nlohmann::ordered_json values;
  std::string text = fmt::format("evaluation at step {} ({:.1f} s):", step, seconds);
  for (const auto& [name, value] : figures) {
    values[name] = number(value);
    text += fmt::format("  {} {:.4f}", name, value);
  }
  append(nlohmann::ordered_json{{"step", step}, {"eval", values}, {"seconds", seconds}}.dump());
  log_line(text);
}

}  // namespace facetrain
