// The curves of a report: what metrics.jsonl holds of the steps and of the evaluations among them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "trainer/figures.h"
#include "trainer/report/html.h"
#include "trainer/report/report_page.h"

namespace facetrain {
namespace {

// Names of metrics.jsonl that this page knows more about. Others are shown under their own name.
struct Known {
  const char *name, *title;
  int order;         // 0: the task's own means stand here
  bool noisy;        // drawn smoothed
  bool wide;         // on a logarithmic axis where it spans decades
  bool interesting;  // else only where the curve changes at all
};
constexpr Known kKnown[] = {
    {"loss", "Loss", -1, true, true, true},
    {"target_cosine", "Cosine to the own class", 0, true, false, true},
    {"feature_norm", "Norm of the features", 0, true, true, true},
    {"lr", "Learning rate", 1, false, false, true},
    {"gradient_norm", "Norm of the gradient", 2, true, true, true},
    {"samples_per_second", "Throughput, images per second", 3, true, false, true},
    {"data_wait", "Waiting for data, share of the time", 4, true, false, true},
    {"memory_gb", "Peak memory of rank 0, GB", 5, false, false, true},
    {"loss_scale", "Loss scale", 6, false, true, true},
    {"skipped_steps", "Skipped steps, in all", 7, false, false, false},
    {"skipped_samples", "Skipped samples, in all", 8, false, false, false}};

const Known* known(const std::string& name) {
  const auto found = std::ranges::find(kKnown, name, &Known::name);
  return found == std::end(kKnown) ? nullptr : found;
}

int order(const Curve& curve) {
  const Known* entry = known(curve.name);
  return entry == nullptr ? 0 : entry->order;
}

bool wanted(const Curve& curve) {
  if (curve.name == "epoch" || curve.name == "samples") return false;
  const Known* entry = known(curve.name);
  if (entry == nullptr || entry->interesting) return true;
  return std::ranges::any_of(curve.value, [&](double v) { return v != curve.value.front(); });
}

// A curve that spans decades shows nothing on a linear axis but its start.
bool spans_decades(const std::vector<double>& values) {
  double low = INFINITY, high = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    if (value <= 0) return false;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  return high > 1000 * low;
}

std::string figure_of(const Curve& curve) {
  const Known* entry = known(curve.name);
  const std::string title = entry == nullptr ? curve.name : entry->title;
  Chart chart;
  chart.title = title;
  chart.x_label = "step";
  const bool noisy = entry == nullptr || entry->noisy;
  chart.log_y = (entry == nullptr || entry->wide) && spans_decades(curve.value);
  if (noisy)
    chart.lines = smoothed_lines(curve.name, curve.step, curve.value, chart.log_y);
  else
    chart.lines = {{curve.name, curve.step, curve.value, 0, ChartLine::Style::kLine}};
  std::vector<std::string> notes;
  const auto broken =
      std::ranges::count_if(curve.value, [](double v) { return !std::isfinite(v); });
  if (broken > 0)
    notes.push_back(fmt::format("{} of {} values are not finite: gaps in the line.",
                                count_text(broken), count_text(std::ssize(curve.value))));
  if (chart.log_y) notes.emplace_back("Logarithmic axis.");
  return figure(title, value_text(curve.value.back()), chart, notes);
}

std::vector<std::string> figure_names(const std::vector<Curve>& curves) {
  std::vector<std::string> names;
  for (const auto& curve : curves) {
    const auto name = split_figure(curve.name).figure;
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  sort_figures(names);
  return names;
}

// Charts of one figure, so many sets in each as there are colours.
std::string charts_of(const std::string& name, const std::vector<Curve>& curves) {
  std::string out;
  Chart chart;
  const auto close = [&] {
    if (chart.lines.empty()) return;
    chart.title = name;
    chart.x_label = "step";
    const auto& line = chart.lines.front();
    out += figure(chart.lines.size() == 1 ? fmt::format("{}: {}", line.name, name) : name,
                  chart.lines.size() == 1 ? value_text(line.y.back()) : "", chart);
    chart = {};
  };
  for (const auto& curve : curves) {
    const auto [set, figure_name] = split_figure(curve.name);
    if (figure_name != name) continue;
    const int colour = static_cast<int>(chart.lines.size());
    chart.lines.push_back({set, curve.step, curve.value, colour});
    if (colour + 1 == kColours) close();
  }
  close();
  return out;
}

// Rows: sets; cells: the last value, and below it the best with its step.
std::string figures_table(const std::vector<Curve>& curves, const std::vector<std::string>& names) {
  std::vector<std::string> head{"set"};
  for (const auto& name : names) head.push_back(escape_html(name));
  std::vector<std::vector<std::string>> rows;
  std::map<std::string, size_t> row_of;
  for (const auto& curve : curves) {
    const auto [set, name] = split_figure(curve.name);
    const auto [place, fresh] = row_of.try_emplace(set, rows.size());
    if (fresh) {
      rows.emplace_back(names.size() + 1);
      rows.back().front() = escape_html(set);
    }
    const double sign = lower_is_better(name) ? -1 : 1;
    double best = -sign * INFINITY, step = 0;
    for (size_t i = 0; i < curve.value.size(); ++i)
      if (std::isfinite(curve.value[i]) && sign * curve.value[i] > sign * best)
        std::tie(best, step) = std::pair(curve.value[i], curve.step[i]);
    const auto column = std::ranges::find(names, name) - names.begin() + 1;
    rows[place->second][static_cast<size_t>(column)] =
        value_text(curve.value.back()) +
        (std::isfinite(best) && curve.value.size() > 1
             ? fmt::format("<small title=\"at step {}\">best {}</small>",
                           count_text(static_cast<int64_t>(step)), value_text(best))
             : "");
  }
  return table(head, rows);
}

struct FigureTable {
  std::string key;
  std::set<std::string> figures;
  std::vector<Curve> curves;
  bool shares_figures(const FigureTable& other) const {
    return std::ranges::any_of(figures, [&](const auto& f) { return other.figures.contains(f); });
  }
};

// Sets of one protocol have figures in common: they share a table, and the figures of groups, of
// which there may be many, get another. One table for all would be wider than a page.
std::string figures_tables(const std::vector<Curve>& curves) {
  std::vector<FigureTable> sets, tables;
  for (const auto& curve : curves) {
    const auto [set, figure] = split_figure(curve.name);
    const std::string key = (figure.starts_with("accuracy@") ? "groups of " : "") + set;
    auto own = std::ranges::find(sets, key, &FigureTable::key);
    if (own == sets.end()) own = sets.insert(own, {key, {}, {}});
    own->figures.insert(figure);
    own->curves.push_back(curve);
  }
  for (const auto& set : sets) {
    const auto shared =
        std::ranges::find_if(tables, [&](const auto& known) { return known.shares_figures(set); });
    if (shared == tables.end()) {
      tables.push_back(set);
      continue;
    }
    shared->figures.insert(set.figures.begin(), set.figures.end());
    shared->curves.insert(shared->curves.end(), set.curves.begin(), set.curves.end());
  }
  std::string out;
  for (const auto& table : tables) out += figures_table(table.curves, figure_names(table.curves));
  return out;
}

}  // namespace

std::string curves_section(const RunHistory& history) {
  if (history.logged == 0)
    return section("curves", "Training",
                   note("No step is logged yet (log.every says how often steps are)."));
  std::vector<const Curve*> curves;
  for (const auto& curve : history.training)
    if (wanted(curve)) curves.push_back(&curve);
  std::ranges::stable_sort(curves, {}, [](const Curve* curve) { return order(*curve); });
  std::string out = "<div class=\"grid\">\n";
  for (const Curve* curve : curves) out += figure_of(*curve);
  return section("curves", "Training", out + "</div>");
}

std::string progress_section(const RunHistory& history) {
  if (history.evaluation.empty())
    return section("progress", "Evaluation during training",
                   note("Nothing was evaluated during training (eval.sets, eval.every)."));
  const auto& curves = history.evaluation;
  const auto names = figure_names(curves);
  std::string out = "<div class=\"card\">" + figures_tables(curves) + "</div>\n";
  std::string first, rest;
  const bool few = curves.size() <= kColours * names.size();
  for (const auto& name : names)
    (few || name == names.front() ? first : rest) += charts_of(name, curves);
  out += "<div class=\"grid below\">\n" + first + "</div>\n";
  if (!rest.empty())
    out += "<details><summary>Further figures</summary><div class=\"grid\">\n" + rest +
           "</div></details>\n";
  return section("progress", "Evaluation during training", out);
}

}  // namespace facetrain
