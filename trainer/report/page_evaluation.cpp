// The newest checkpoint on its sets: figures, curves, scores, and what it finds hardest.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "trainer/report/html.h"
#include "trainer/report/report_page.h"

namespace facetrain {
namespace {

using Sets = std::vector<const SetEvaluation*>;
using Histogram = std::array<int64_t, kHistogramBins>;

std::string share_text(const std::optional<double>& value) {
  return value ? fmt::format("{:.4f}", *value) : "–";
}

std::string pairs_table(const Sets& sets) {
  std::vector<std::string> head{"set", "pairs", "accuracy", "AUC", "EER"};
  std::vector<double> fars;
  for (const auto* set : sets)
    for (const auto& point : set->verification->tar_at_far)
      if (std::ranges::find(fars, point.far) == fars.end()) fars.push_back(point.far);
  for (const double far : fars) head.push_back(fmt::format("TAR @ FAR {:g}", far));
  head.emplace_back("threshold");
  std::vector<std::vector<std::string>> rows;
  for (const auto* set : sets) {
    const Verification& result = *set->verification;
    auto& row = rows.emplace_back();
    row = {
        escape_html(set->name),
        fmt::format("{}<small>{} same</small>", count_text(result.pairs), count_text(result.same)),
        fmt::format("<b>{:.4f}</b><small>± {:.4f}</small>", result.accuracy, result.deviation),
        share_text(result.auc), share_text(result.eer)};
    for (const double far : fars) {
      const auto found = std::ranges::find(result.tar_at_far, far, &TarAtFar::far);
      row.push_back(found == result.tar_at_far.end() ? "–" : fmt::format("{:.4f}", found->tar));
    }
    row.push_back(fmt::format("{:.3f}", set->cosine_threshold()));
  }
  return table(head, rows);
}

std::string groups_table(const Verification& result) {
  if (result.groups.empty()) return "";
  std::vector<std::vector<std::string>> rows;
  for (const auto& group : result.groups)
    rows.push_back(
        {escape_html(group.name),
         fmt::format("{}<small>{} same</small>", count_text(group.pairs), count_text(group.same)),
         fmt::format("{:.4f}", group.accuracy), share_text(group.false_match),
         share_text(group.false_non_match)});
  return "<h3>Groups: pairs with both images in one, thresholds of all pairs</h3>" +
         table({"group", "pairs", "accuracy", "false match", "false non-match"}, rows);
}

// Sets of any other protocol by the names of their figures.
std::string figures_table(const Sets& sets) {
  std::vector<std::string> names, head{"set"};
  for (const auto* set : sets)
    for (const auto& [name, value] : set->figures)
      if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  std::ranges::stable_sort(names, {}, &std::string::size);  // rank1, rank5, rank10
  for (const auto& name : names) head.push_back(escape_html(name));
  std::vector<std::vector<std::string>> rows;
  for (const auto* set : sets) {
    auto& row = rows.emplace_back(std::vector{escape_html(set->name)});
    for (const auto& name : names) {
      const auto found = set->figures.find(name);
      row.push_back(found == set->figures.end() ? "–" : share_text(found->second));
    }
  }
  return table(head, rows);
}

// What a ROC and an open-set curve have in common: shares over a logarithmic share.
struct RateCurve {
  std::string name;
  const std::vector<CurvePoint>& points;
  std::vector<std::pair<double, double>> dots;
  int64_t impostors;
};

std::string rate_figure(const std::string& title, const std::string& x_label,
                        const std::vector<RateCurve>& curves, const std::string& note) {
  Chart chart;
  chart.title = title;
  chart.x_label = x_label;
  chart.log_x = true;  // the end of few false accepts is the interesting one
  chart.hover = false;
  double floor = 0.1, low = 1;
  for (const auto& curve : curves)
    floor = std::min(floor, 1 / static_cast<double>(std::max<int64_t>(curve.impostors, 1)));
  for (const auto& curve : curves) {
    const int colour = static_cast<int>(chart.lines.size()) / 2;
    ChartLine line{curve.name, {}, {}, colour, ChartLine::Style::kLine};
    for (const auto& point : curve.points) {
      // What accepts nobody wrongly stands at the left edge.
      line.x.push_back(std::max(point.false_accepts, floor));
      line.y.push_back(point.true_accepts);
      if (point.false_accepts >= floor) low = std::min(low, point.true_accepts);
    }
    ChartLine dots{curve.name, {}, {}, colour, ChartLine::Style::kDots};
    for (const auto& [x, y] : curve.dots) {
      dots.x.push_back(std::max(x, floor));
      dots.y.push_back(y);
    }
    chart.lines.push_back(std::move(line));
    chart.lines.push_back(std::move(dots));
  }
  chart.low_x = floor;
  chart.high_x = 1;
  chart.low_y = low > 0.95 ? 0.9 : low > 0.6 ? 0.5 : 0;
  chart.high_y = 1.005;
  return figure(title, curves.size() == 1 ? curves.front().name : "", chart, {note});
}

RateCurve roc_of(const SetEvaluation& set) {
  const Verification& result = *set.verification;
  RateCurve curve{set.name, result.roc, {}, result.pairs - result.same};
  for (const auto& point : result.tar_at_far) curve.dots.emplace_back(point.far, point.tar);
  return curve;
}

std::string roc_figure(const Sets& sets) {
  std::vector<RateCurve> curves;
  for (const auto* set : sets) curves.push_back(roc_of(*set));
  return rate_figure("True accept rate over false accept rate", "false accept rate", curves,
                     "Dots: TAR at FAR 0.1, 0.01 and 0.001.");
}

std::string open_set_figure(const SetEvaluation& set) {
  const Identification& result = *set.identification;
  RateCurve curve{set.name, result.curve, {}, result.searches};
  for (const auto& point : result.open_set) curve.dots.emplace_back(point.fpir, point.tpir);
  return rate_figure("True over false positive identification rate",
                     "false positive identification rate", {curve},
                     "Dots: TPIR at the FPIR that were asked for.");
}

std::string rank_figure(const SetEvaluation& set) {
  Chart chart;
  chart.title = "Identification rate over rank";
  chart.x_label = "rank";
  ChartLine line{"share of known probes", {}, {}, 0, ChartLine::Style::kLine};
  for (const double rate : set.identification->cmc) {
    line.x.push_back(static_cast<double>(line.x.size() + 1));
    line.y.push_back(rate);
  }
  chart.lines = {line};
  chart.high_y = 1.005;
  return figure(chart.title, set.name, chart);
}

// Shares of a histogram as the outline of its bars.
ChartLine outline(const std::string& name, const Histogram& counts, int colour) {
  int64_t sum = 0;
  for (const int64_t count : counts) sum += count;
  ChartLine line{
      fmt::format("{} ({})", name, count_text(sum)), {}, {}, colour, ChartLine::Style::kArea};
  for (int64_t bin = 0; bin < kHistogramBins; ++bin)
    for (const int64_t edge : {bin, bin + 1}) {
      line.x.push_back(-1 + 2 * static_cast<double>(edge) / kHistogramBins);
      line.y.push_back(static_cast<double>(counts[static_cast<size_t>(bin)]) /
                       static_cast<double>(std::max<int64_t>(sum, 1)));
    }
  return line;
}

struct NamedHistogram {
  std::string name;
  const Histogram& counts;
};

// `back` stands behind `front`.
std::string scores_figure(const std::string& set, const NamedHistogram& front,
                          const NamedHistogram& back, std::vector<ChartMark> marks,
                          const std::vector<std::string>& notes) {
  Chart chart;
  chart.title = "Scores: share of the cosines in each bin";
  chart.x_label = "cosine";
  chart.hover = false;
  chart.lines = {outline(back.name, back.counts, 1), outline(front.name, front.counts, 0)};
  chart.marks = std::move(marks);
  int64_t first = kHistogramBins, last = -1;
  for (int64_t bin = 0; bin < kHistogramBins; ++bin)
    if (front.counts[static_cast<size_t>(bin)] + back.counts[static_cast<size_t>(bin)] > 0) {
      first = std::min(first, bin);
      last = bin;
    }
  if (last >= 0) {
    chart.low_x = -1 + 2 * static_cast<double>(std::max<int64_t>(first - 2, 0)) / kHistogramBins;
    chart.high_x =
        -1 + 2 * static_cast<double>(std::min<int64_t>(last + 3, kHistogramBins)) / kHistogramBins;
  }
  return figure(chart.title, set, chart, notes);
}

std::string image(const Picture& picture) {
  const std::string name = escape_html(picture.name);
  return fmt::format("<img src=\"{0}\" alt=\"{1}\" title=\"{1}\">", picture.uri, name);
}

std::string card(const Picture& first, const Picture& second, const std::string& score,
                 const std::string& verdict, bool right) {
  return fmt::format(
      "<div class=\"card pair\"><div>{}{}</div><p><b>{}</b><span class=\"{}\">{}</span></p>"
      "<small>{}</small><small>{}</small></div>\n",
      image(first), image(second), score, right ? "good" : "bad", verdict, escape_html(first.name),
      escape_html(second.name));
}

std::string cards(const std::string& title, const std::string& html) {
  return html.empty() ? ""
                      : fmt::format("<h3>{}</h3><div class=\"pairs\">\n{}</div>\n", title, html);
}

std::string pairs_details(const SetEvaluation& set) {
  const Verification& result = *set.verification;
  std::string out = "<div class=\"grid\">\n";
  if (!result.roc.empty()) out += roc_figure({&set});
  const double threshold = set.cosine_threshold();
  out += scores_figure(set.name, {"same person", result.same_cosines},
                       {"different people", result.different_cosines},
                       {{threshold, fmt::format("threshold {:.2f}", threshold)}},
                       {fmt::format("The mean of the thresholds of {} folds, each chosen on the "
                                    "others.",
                                    result.folds.size())}) +
         "</div>\n";
  if (result.roc.empty())
    out += note("All pairs of the list are of one kind: there is no ROC, AUC or EER.");
  out += groups_table(result);
  for (const bool same : {true, false}) {
    std::string html;
    for (const auto& picture : set.pairs)
      if (picture.pair.same == same)
        html += card(picture.first, picture.second, fmt::format("{:.3f}", picture.pair.cosine),
                     fmt::format("{}, {}", picture.accepted ? "accepted" : "rejected",
                                 picture.accepted == same ? "right" : "wrong"),
                     picture.accepted == same);
    out += cards(same ? "The same person, least alike" : "Different people, most alike", html);
  }
  return out;
}

std::string identification_details(const SetEvaluation& set) {
  const Identification& result = *set.identification;
  std::string out =
      note(fmt::format("{} entries of {} people in the gallery; {} probes, {} of them "
                       "of people who are there.",
                       count_text(result.gallery), count_text(result.gallery_identities),
                       count_text(result.probes), count_text(result.known))) +
      "<div class=\"grid below\">\n" + rank_figure(set);
  if (!result.curve.empty()) out += open_set_figure(set);
  out += scores_figure(set.name, {"own identity", result.known_scores},
                       {"best score of an unknown search", result.unknown_scores}, {}, {}) +
         "</div>\n";
  std::string html;
  for (const auto& picture : set.probes)
    html +=
        card(picture.image, picture.best, fmt::format("{:.3f}", picture.probe.best_score),
             fmt::format("own {:.3f}, rank {}", picture.probe.score, picture.probe.rank), false);
  return out + cards("Probes and the people they were taken for", html);
}

std::string details_of(const SetEvaluation& set, bool open) {
  std::string html;
  if (set.verification) html = pairs_details(set);
  if (set.identification) html = identification_details(set);
  if (html.empty()) return "";
  return fmt::format("<details{}><summary>{}</summary>{}</details>\n", open ? " open" : "",
                     escape_html(set.name), html);
}

// Several sets in one picture, so many as there are colours.
std::string common_rocs(const Sets& sets) {
  std::string out;
  for (auto from = sets.begin(); sets.size() > 1 && from != sets.end();) {
    const auto to = from + std::min<std::ptrdiff_t>(kColours, sets.end() - from);
    out += roc_figure({from, to});
    from = to;
  }
  return out.empty() ? "" : "<div class=\"grid below\">\n" + out + "</div>\n";
}

}  // namespace

std::string evaluation_section(const ReportInput& input) {
  const RunEvaluation& evaluation = input.evaluation;
  const std::string id = "evaluation", title = "Newest checkpoint";
  if (evaluation.sets.empty())
    return section(id, title, note("Not evaluated: " + evaluation.problem + "."));
  Sets pairs, others, rocs;
  std::string problems, details;
  double seconds = 0;
  for (const auto& set : evaluation.sets) {
    seconds += set.seconds;
    if (!set.problem.empty()) {
      problems += note(fmt::format("{} could not be evaluated: {}", set.name, set.problem));
      continue;
    }
    (set.verification ? pairs : others).push_back(&set);
    if (set.verification && !set.verification->roc.empty()) rocs.push_back(&set);
    details += details_of(set, evaluation.sets.size() <= 3);
  }
  const std::string precision = string_of(input.history.last_event("start"), "precision");
  std::string tables = problems;
  if (!pairs.empty()) tables = pairs_table(pairs) + tables;
  if (!others.empty()) tables += figures_table(others);
  return section(
      id, title,
      fmt::format("<p class=\"soft\">{}, in fp32{}; {}.</p><div class=\"card\">{}</div>\n{}{}",
                  escape_html(evaluation.model),
                  precision.empty() || precision == "fp32"
                      ? ""
                      : fmt::format(" (evaluations during training: {})", escape_html(precision)),
                  duration_words(seconds), tables, common_rocs(rocs), details));
}

}  // namespace facetrain
