#include "trainer/report/run_history.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>

#include "core/check.h"
#include "eval/protocol.h"
#include "trainer/checkpoint.h"
#include "trainer/run.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::json;

// Every line that is an object; counts the others.
std::vector<nlohmann::ordered_json> read_lines(const fs::path& file, int64_t& broken) {
  std::vector<nlohmann::ordered_json> lines;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    auto json = nlohmann::ordered_json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object())
      lines.push_back(std::move(json));
    else
      ++broken;
  }
  return lines;
}

// Curves by name, in the order in which names appear.
class CurveList {
 public:
  void add(const std::string& name, double step, const nlohmann::ordered_json& value) {
    if (!value.is_number() && !value.is_null()) return;
    const auto [place, fresh] = places_.try_emplace(name, curves_.size());
    if (fresh) curves_.push_back({name, {}, {}});
    Curve& curve = curves_[place->second];
    curve.step.push_back(step);
    curve.value.push_back(value.is_null() ? std::numeric_limits<double>::quiet_NaN()
                                          : value.get<double>());
  }
  std::vector<Curve> take() { return std::move(curves_); }

 private:
  std::vector<Curve> curves_;
  std::map<std::string, size_t> places_;
};

void read_metrics(RunHistory& history) {
  CurveList training, evaluation;
  for (const auto& line : read_lines(history.run / "metrics.jsonl", history.broken_lines)) {
    const auto number = line.find("step");
    if (number == line.end() || !number->is_number_integer()) {
      ++history.broken_lines;
      continue;
    }
    const auto step = number->get<int64_t>();
    history.steps = std::max(history.steps, step);
    if (const auto figures = line.find("eval"); figures != line.end()) {
      ++history.evaluations;
      for (const auto& [name, value] : figures->items())
        if (!counts_trials(name)) evaluation.add(name, static_cast<double>(step), value);
      if (const auto seconds = line.find("seconds"); seconds != line.end() && seconds->is_number())
        history.seconds["evaluation"] += seconds->get<double>();
      continue;
    }
    ++history.logged;
    for (const auto& [name, value] : line.items())
      if (name != "step") training.add(name, static_cast<double>(step), value);
    if (const auto phases = line.find("phases"); phases != line.end() && phases->is_object())
      for (const auto& [name, value] : phases->items())
        if (value.is_number()) history.seconds[name] += value.get<double>();
  }
  history.training = training.take();
  history.evaluation = evaluation.take();
  std::ranges::stable_partition(history.training,
                                [](const Curve& curve) { return curve.name == "loss"; });
}

// The line of `latest` or `best`; empty when there is none.
std::string read_pointer(const fs::path& file) {
  std::ifstream in(file);
  std::string name;
  std::getline(in, name);
  return name;
}

void read_checkpoints(RunHistory& history) {
  const std::string latest = read_pointer(history.run / "latest");
  const std::string best = read_pointer(history.run / "best");
  for (const auto& item : fs::directory_iterator(history.run)) {
    const auto step = checkpoint_step(item.path());
    if (!step || !item.is_directory() || !is_checkpoint(item.path())) continue;
    CheckpointEntry entry{item.path().filename().string(), *step};
    // A run that still trains may remove the folder meanwhile.
    std::error_code gone;
    for (const auto& file : fs::directory_iterator(item.path(), gone)) {
      const auto bytes = fs::file_size(file.path(), gone);
      if (!gone) entry.bytes += bytes;
    }
    entry.latest = entry.name == latest;
    entry.best = entry.name == best;
    history.checkpoints.push_back(entry);
  }
  std::ranges::sort(history.checkpoints, {}, &CheckpointEntry::step);
}

}  // namespace

const Curve* RunHistory::training_curve(const std::string& name) const {
  const auto found = std::ranges::find(training, name, &Curve::name);
  return found == training.end() ? nullptr : &*found;
}

Json RunHistory::last_event(const std::string& kind) const {
  for (auto event = events.rbegin(); event != events.rend(); ++event)
    if (string_of(*event, "event") == kind) return *event;
  return Json::object();
}

std::string string_of(const Json& event, const char* key) {
  const auto found = event.find(key);
  return found != event.end() && found->is_string() ? found->get<std::string>() : "";
}

double number_of(const Json& event, const char* key) {
  const auto found = event.find(key);
  return found != event.end() && found->is_number() ? found->get<double>() : 0;
}

int64_t integer_of(const Json& event, const char* key) {
  return static_cast<int64_t>(number_of(event, key));
}

RunHistory read_run(const fs::path& run) {
  static_cast<void>(run_config(run));  // says what a run folder is when this is none
  RunHistory history;
  history.run = run;
  std::ostringstream config;
  config << std::ifstream(run / "config.yaml").rdbuf();
  history.config = config.str();
  read_metrics(history);
  for (const auto& line : read_lines(run / "sessions.jsonl", history.broken_lines))
    if (line.contains("event") && line["event"].is_string())
      history.events.push_back(line);
    else
      ++history.broken_lines;
  read_checkpoints(history);
  return history;
}

}  // namespace facetrain
