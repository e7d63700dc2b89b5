// What a run is and where its time went: summary, timings, configuration, environment, checkpoints.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "trainer/report/html.h"
#include "trainer/report/report_page.h"

namespace facetrain {
namespace {

std::string tile(const std::string& value, const std::string& name, const std::string& more) {
  return fmt::format("<div class=\"tile\"><span>{}</span><b>{}</b><span>{}</span></div>\n",
                     escape_html(name), escape_html(value), escape_html(more));
}

double median(std::vector<double> values) {
  std::erase_if(values, [](double value) { return !std::isfinite(value); });
  if (values.empty()) return NAN;
  const auto middle = values.begin() + std::ssize(values) / 2;
  std::ranges::nth_element(values, middle);
  return *middle;
}

double sum(const std::map<std::string, double>& seconds) {
  double total = 0;
  for (const auto& [name, value] : seconds) total += value;
  return total;
}

std::string steps_tile(const RunHistory& history) {
  const auto start = history.last_event("start"), end = history.last_event("end");
  const auto wanted = integer_of(start, "steps");
  const auto done = std::max(history.steps, integer_of(end, "step"));
  const double epochs =
      static_cast<double>(done) / std::max(number_of(start, "steps_per_epoch"), 1e-9);
  return tile(count_text(done), "steps",
              wanted > 0 ? fmt::format("of {}; {:.2f} epochs", count_text(wanted), epochs) : "");
}

std::string accuracy_tile(const ReportInput& input) {
  for (const auto& set : input.evaluation.sets)
    if (set.verification)
      return tile(fmt::format("{:.2f} %", 100 * set.verification->accuracy),
                  "accuracy on " + set.name,
                  fmt::format("± {:.2f} over {} folds", 100 * set.verification->deviation,
                              set.verification->folds.size()));
  for (const auto& curve : input.history.evaluation)
    if (const auto [set, figure] = split_figure(curve.name); figure == "accuracy")
      return tile(fmt::format("{:.2f} %", 100 * curve.value.back()), "accuracy on " + set,
                  fmt::format("at step {}", count_text(static_cast<int64_t>(curve.step.back()))));
  return "";
}

struct Phase {
  const char *name, *title, *meaning;
};
// In the order of a step.
constexpr Phase kPhases[] = {
    {"data", "waiting for data", "until a batch is there"},
    {"forward", "forward", "network and loss"},
    {"backward", "backward", "gradients; their reduction runs beside it"},
    {"reduce", "waiting for gradients", "the part of the reduction that backward does not hide"},
    {"verdict", "agreeing on the step", "is it finite on all ranks? On a GPU also the wait for it"},
    {"update", "update", "clipping, optimizer, averages"},
    {"evaluation", "evaluation", "of eval.sets during training"},
    {"checkpoint", "checkpoints", "copying, and waiting for an earlier one to be written"},
    {"other", "other", "logging and the rest"}};

using Words = std::vector<std::pair<std::string, std::string>>;

std::string words_table(const Words& rows) {
  std::string out = "<div class=\"scroll\"><table class=\"words\"><tbody>";
  for (const auto& [name, value] : rows)
    if (!value.empty())
      out += "<tr><th scope=\"row\">" + escape_html(name) + "</th><td>" + escape_html(value) +
             "</td></tr>";
  return out + "</tbody></table></div>";
}

// A text or a number of an object of sessions.jsonl, as text.
std::string text_of(const nlohmann::json& event, const char* key) {
  const auto found = event.find(key);
  if (found == event.end()) return "";
  if (found->is_string()) return found->get<std::string>();
  if (found->is_number_integer()) return count_text(found->get<int64_t>());
  if (found->is_number()) return fmt::format("{:.2f}", found->get<double>());
  if (!found->is_array()) return "";
  std::string text;
  for (const auto& item : *found)
    if (item.is_string()) text += (text.empty() ? "" : ", ") + item.get<std::string>();
  return text;
}

void add_words(Words& words, const nlohmann::json& event,
               std::initializer_list<std::pair<const char*, const char*>> keys) {
  for (const auto& [key, title] : keys) words.emplace_back(title, text_of(event, key));
}

// How a session ended, from the event that follows its start.
std::string ending(const nlohmann::json* next) {
  if (next == nullptr) return "running, or ended without a word";
  if (string_of(*next, "event") != "end") return "ended without a word";
  return fmt::format("{} at step {}, {}", string_of(*next, "how"), text_of(*next, "step"),
                     duration_words(number_of(*next, "seconds")));
}

}  // namespace

std::string summary_section(const ReportInput& input) {
  const RunHistory& history = input.history;
  std::string tiles = steps_tile(history);
  if (const Curve* loss = history.training_curve("loss"); loss != nullptr)
    tiles += tile(value_text(smooth(loss->value).back()),
                  loss->value.size() > kFewPoints ? "loss, smoothed" : "loss, last",
                  "first " + value_text(loss->value.front()));
  tiles += accuracy_tile(input);
  if (const Curve* speed = history.training_curve("samples_per_second"); speed != nullptr) {
    const Curve* wait = history.training_curve("data_wait");
    tiles += tile(fmt::format("{:.0f} img/s", median(speed->value)), "throughput, median",
                  wait == nullptr ? ""
                                  : fmt::format("{:.0f} % of the time waiting for data",
                                                100 * median(wait->value)));
  }
  const auto starts = std::ranges::count_if(
      history.events, [](const auto& event) { return string_of(event, "event") == "start"; });
  if (const double seconds = sum(history.seconds); seconds > 0)
    tiles += tile(duration_words(seconds), "time in steps",
                  fmt::format("{} start{}, {} evaluation{}", starts, starts == 1 ? "" : "s",
                              history.evaluations, history.evaluations == 1 ? "" : "s"));
  const auto start = history.last_event("start");
  if (const auto classes = integer_of(start, "identities"); classes > 0)
    tiles += tile(count_text(classes), "people in the training data",
                  count_text(integer_of(start, "images")) + " images");
  return "<div class=\"tiles\">\n" + tiles + "</div>\n";
}

std::string time_section(const RunHistory& history) {
  const double total = sum(history.seconds);
  if (total <= 0) return section("time", "Where the time went", note("No step is logged yet."));
  std::string bar;
  std::vector<std::vector<std::string>> rows;
  int colour = 0;
  for (const auto& phase : kPhases) {
    const auto found = history.seconds.find(phase.name);
    const int mine = colour++;
    if (found == history.seconds.end()) continue;
    const double share = found->second / total;
    bar += fmt::format("<i class=\"b{}\" style=\"flex:{:.5f}\" title=\"{}: {:.1f} %\"></i>", mine,
                       share, phase.title, 100 * share);
    rows.push_back(
        {fmt::format("<i class=\"swatch b{}\"></i>{}<small>{}</small>", mine, phase.title,
                     phase.meaning),
         duration_words(found->second), fmt::format("{:.1f} %", 100 * share),
         fmt::format("{:.1f}", 1000 * found->second /
                                   static_cast<double>(std::max<int64_t>(history.steps, 1)))});
  }
  return section("time", "Where the time went",
                 "<div class=\"card\"><div class=\"bar\">" + bar + "</div>" +
                     table({"", "time", "share", "ms a step"}, rows) +
                     note("On rank 0, up to the last logged step; start and end are left out.") +
                     "</div>");
}

std::string configuration_section(const RunHistory& history) {
  return section("configuration", "Configuration",
                 "<details><summary>config.yaml, every default filled in</summary><pre>" +
                     escape_html(history.config) + "</pre></details>");
}

std::string environment_section(const RunHistory& history) {
  std::vector<std::vector<std::string>> rows;
  for (size_t i = 0; i < history.events.size(); ++i) {
    const auto& event = history.events[i];
    if (string_of(event, "event") != "start") continue;
    const auto* next = i + 1 < history.events.size() ? &history.events[i + 1] : nullptr;
    rows.push_back({escape_html(text_of(event, "time")), escape_html(text_of(event, "host")),
                    escape_html(text_of(event, "place")), escape_html(text_of(event, "step")),
                    escape_html(ending(next))});
  }
  if (rows.empty())
    return section("environment", "Environment",
                   note("Not recorded: the run has no sessions.jsonl."));
  const auto start = history.last_event("start");
  Words of_place{{"program", "facetrain " + text_of(start, "program")}};
  if (const auto libraries = start.find("libraries");
      libraries != start.end() && libraries->is_object()) {
    std::string text;
    for (const auto& [name, version] : libraries->items())
      text += fmt::format("{}{} {}", text.empty() ? "" : ", ", name,
                          version.is_string() ? version.get<std::string>() : version.dump());
    of_place.emplace_back("libraries", text);
  }
  add_words(of_place, start,
            {{"processor", "processor"},
             {"cores", "cores of the host"},
             {"system", "system"},
             {"device", "device"},
             {"ranks", "ranks"},
             {"threads", "threads a rank"}});
  Words of_run;
  add_words(of_run, start,
            {{"network", "network"},
             {"parameters", "its parameters"},
             {"frozen_tensors", "frozen tensors"},
             {"classes", "classes"},
             {"sharded_parameters", "their parameters, sharded"},
             {"data", "training data"},
             {"images", "images"},
             {"identities", "identities"},
             {"batch_size", "images a step"},
             {"steps_per_epoch", "steps an epoch"}});
  return section("environment", "Environment",
                 "<div class=\"card\">" +
                     table({"started", "host", "place", "from step", "ended"}, rows, "words") +
                     "</div><div class=\"grid below\"><div class=\"card\">" +
                     words_table(of_place) + "</div><div class=\"card\">" + words_table(of_run) +
                     "</div></div>");
}

std::string checkpoints_section(const ReportInput& input) {
  const RunHistory& history = input.history;
  if (history.checkpoints.empty())
    return section("checkpoints", "Checkpoints", note("The run has no checkpoint yet."));
  const auto folder = std::filesystem::absolute(input.output).lexically_normal().parent_path();
  std::vector<std::vector<std::string>> rows;
  for (const auto& checkpoint : history.checkpoints) {
    const auto place = std::filesystem::absolute(history.run / checkpoint.name)
                           .lexically_normal()
                           .lexically_relative(folder);
    rows.push_back({fmt::format("<a href=\"./{}/\">{}</a>", escape_path(place.string()),
                                escape_html(checkpoint.name)),
                    count_text(checkpoint.step), size_text(checkpoint.bytes),
                    fmt::format("{}{}{}", checkpoint.latest ? "latest" : "",
                                checkpoint.latest && checkpoint.best ? ", " : "",
                                checkpoint.best ? "best" : "")});
  }
  return section("checkpoints", "Checkpoints",
                 "<div class=\"card\">" + table({"folder", "step", "size", ""}, rows) + "</div>");
}

}  // namespace facetrain
