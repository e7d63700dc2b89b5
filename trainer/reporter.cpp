#include "trainer/reporter.h"

#include <sys/resource.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/check.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "eval/protocol.h"
#include "trainer/figures.h"

namespace facetrain {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// NaN and infinity are not JSON; null is what a reader of the curve expects for a step without a
// finite value.
Json number(double value) { return std::isfinite(value) ? Json(value) : Json(nullptr); }

// The interval's seconds by phase, with what no phase claims as "other".
Json phases(const std::map<std::string, double>& named, double seconds) {
  Json json = Json::object();
  for (const auto& [name, value] : named) {
    json[name] = value;
    seconds -= value;
  }
  json["other"] = std::max(seconds, 0.0);
  return json;
}

// What TensorBoard shows of a line: the recipe's means under train/, beside the speed.
std::map<std::string, double> tags(const Reporter::Line& line, const Json& json) {
  std::map<std::string, double> values;
  for (const auto& [name, value] : line.means) values["train/" + name] = value;
  values["train/lr"] = line.lr;
  values["train/epoch"] = line.epoch;
  values["train/gradient_norm"] = line.gradient_norm;
  values["train/skipped_steps"] = static_cast<double>(line.skipped_steps);
  if (line.loss_scale != 1) values["train/loss_scale"] = line.loss_scale;
  for (const char* name : {"samples_per_second", "data_wait", "memory_gb"})
    values[fmt::format("speed/{}", name)] = json.at(name).get<double>();
  return values;
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

Reporter::Reporter(const std::filesystem::path& run, int rank, int64_t resumed_step,
                   bool tensorboard)
    : since_(Clock::now()), step_since_(resumed_step) {
  if (rank != 0) return;
  drop_lines_after(run / "metrics.jsonl", resumed_step);
  metrics_ = std::make_unique<AppendFile>(run / "metrics.jsonl");
  if (tensorboard) tensorboard_ = std::make_unique<TensorboardWriter>(run, resumed_step);
}

void Reporter::start_clock(int64_t step, int64_t samples) {
  since_ = Clock::now();
  step_since_ = step;
  samples_since_ = samples;
}

void Reporter::log(Line line, int64_t total_steps) {
  if (!metrics_) return;
  const double seconds = std::max(seconds_since(since_), 1e-9);
  const double rate = static_cast<double>(line.samples - samples_since_) / seconds;
  const double step_seconds =
      seconds / static_cast<double>(std::max<int64_t>(line.step - step_since_, 1));
  const double wait = line.data_wait / seconds;
  Json json{{"step", line.step}, {"epoch", line.epoch}};
  for (const auto& [name, value] : line.means) json[name] = number(value);
  json["lr"] = line.lr;
  json["samples_per_second"] = rate;
  json["samples"] = line.samples;
  json["gradient_norm"] = number(line.gradient_norm);
  json["skipped_steps"] = line.skipped_steps;
  if (line.skipped_samples > 0) json["skipped_samples"] = line.skipped_samples;
  if (line.loss_scale != 1) json["loss_scale"] = line.loss_scale;
  json["data_wait"] = wait;
  json["memory_gb"] = peak_memory_gb();
  json["phases"] = phases(line.phases, seconds);
  metrics_->append(json_line(json));
  if (tensorboard_) tensorboard_->scalars(line.step, tags(line, json));
  tell(line, rate, wait, total_steps, step_seconds);
  start_clock(line.step, line.samples);
}

void Reporter::tell(const Line& line, double rate, double wait, int64_t total_steps,
                    double step_seconds) {
  const double remaining = static_cast<double>(total_steps - line.step) * step_seconds;
  const auto loss = line.means.find("loss");
  const std::string text = fmt::format(
      "step {}/{}  epoch {:.2f}  loss {:.4f}  lr {:.3g}  {:.0f} img/s  data {:.0f} %  {:.1f} GB  "
      "ETA {}{}",
      line.step, total_steps, line.epoch, loss == line.means.end() ? NAN : loss->second, line.lr,
      rate, 100 * wait, peak_memory_gb(), duration_text(remaining),
      line.skipped_steps > 0 ? fmt::format("  skipped {}", line.skipped_steps) : "");
  // The last one stays on the terminal.
  if (log_is_terminal() && line.step < total_steps)
    log_progress(text);
  else
    log_line(text);
}

void Reporter::evaluation(int64_t step, const std::map<std::string, double>& figures,
                          double seconds) {
  if (!metrics_) return;
  since_ += std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  Json values = Json::object();
  std::map<std::string, double> tagged;
  std::map<std::string, std::vector<std::string>> figures_of;  // by set
  for (const auto& [name, value] : figures) {
    values[name] = number(value);
    if (counts_trials(name)) continue;
    tagged["eval/" + name] = value;
    const auto [set, figure] = split_figure(name);
    figures_of[set].push_back(figure);
  }
  std::string text = fmt::format("evaluation at step {} ({:.1f} s)", step, seconds);
  for (auto& [set, names] : figures_of) {
    sort_figures(names);
    text += fmt::format("\n  {}:", set.empty() ? "figures" : set);
    for (const auto& name : names)
      text += fmt::format("  {} {:.4f}", name, figures.at(set.empty() ? name : set + "." + name));
  }
  metrics_->append(json_line({{"step", step}, {"eval", values}, {"seconds", seconds}}));
  if (tensorboard_) tensorboard_->scalars(step, tagged);
  log_line(text);
}

}  // namespace facetrain
