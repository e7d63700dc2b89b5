#include "trainer/report/report_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <ctime>

#include "trainer/report/html.h"
#include "trainer/report/report_style.h"

namespace facetrain {
namespace {

std::string local_time() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[40];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M UTC", &parts);
  return text;
}

// How far the run got, and how it ended.
std::string status(const RunHistory& history) {
  const auto end = history.last_event("end"), start = history.last_event("start");
  if (history.events.empty()) return "<span class=\"badge\">state not recorded</span>";
  if (string_of(history.events.back(), "event") != "end")
    return "<span class=\"badge bad\">running, or ended without a word</span>";
  const auto wanted = integer_of(start, "steps");
  if (string_of(end, "how") == "done" && integer_of(end, "step") >= wanted)
    return "<span class=\"badge good\">finished</span>";
  return "<span class=\"badge bad\">stopped by a signal, to be resumed</span>";
}

std::string header(const ReportInput& input) {
  const auto start = input.history.last_event("start");
  std::vector<std::string> parts;
  for (const char* key : {"network", "loss", "recipe", "precision", "place"})
    if (const auto text = string_of(start, key); !text.empty()) parts.push_back(escape_html(text));
  return fmt::format(
      "<header><p class=\"kicker\">facetrain report</p><h1>{}</h1>{}<p>{}</p></header>",
      escape_html(input.history.run.string()),
      parts.empty() ? "" : fmt::format("<p class=\"soft\">{}</p>", fmt::join(parts, " · ")),
      status(input.history));
}

// Links to the sections that are there, in their order.
std::string navigation(const std::string& body) {
  std::string links;
  const std::string open = "<section id=\"", title = "<h2>";
  for (size_t at = body.find(open); at != std::string::npos; at = body.find(open, at + 1)) {
    const size_t id = at + open.size(), heading = body.find(title, at) + title.size();
    links += fmt::format("<a href=\"#{}\">{}</a>", body.substr(id, body.find('"', id) - id),
                         body.substr(heading, body.find("</h2>", heading) - heading));
  }
  return "<nav>" + links + "</nav>";
}

}  // namespace

std::string report_page(const ReportInput& input) {
  const RunHistory& history = input.history;
  const std::string body = curves_section(history) + progress_section(history) +
                           evaluation_section(input) + time_section(history) +
                           configuration_section(history) + environment_section(history) +
                           checkpoints_section(input);
  std::string footer =
      fmt::format("Made by facetrain {} on {}.", escape_html(input.program), local_time());
  if (history.broken_lines > 0)
    footer += fmt::format(" {} lines of the run's logs could not be read and are left out.",
                          history.broken_lines);
  return fmt::format(
      "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
      // The page asks for nothing, and nothing in it can.
      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src "
      "'unsafe-inline'; img-src data:\">\n"
      "<title>{} · facetrain</title>\n<style>{}</style>\n</head>\n<body>\n<main>\n{}\n{}\n{}\n{}\n"
      "<footer>{}</footer>\n</main>\n</body>\n</html>\n",
      escape_html(history.run.string()), kReportStyle, header(input), navigation(body),
      summary_section(input), body, footer);
}

std::string section(const std::string& id, const std::string& title, const std::string& html) {
  return fmt::format("<section id=\"{}\">\n<h2>{}</h2>\n{}\n</section>\n", id, escape_html(title),
                     html);
}

std::string figure(const std::string& title, const std::string& value, const Chart& chart,
                   const std::vector<std::string>& notes) {
  std::string out = fmt::format(
      "<figure class=\"card\"><figcaption><span>{}</span><span>{}</span></figcaption>{}",
      escape_html(title), escape_html(value), draw(chart));
  std::string legend;
  size_t named = 0;
  for (const auto& line : chart.lines) {
    if (line.style == ChartLine::Style::kPale || line.style == ChartLine::Style::kDots) continue;
    ++named;
    legend += fmt::format("<li><i class=\"b{}\"></i>{}</li>", line.colour, escape_html(line.name));
  }
  if (named > 1) out += "<ul class=\"legend\">" + legend + "</ul>";
  for (const auto& text : notes) out += note(text);
  return out + "</figure>\n";
}

std::string table(const std::vector<std::string>& head,
                  const std::vector<std::vector<std::string>>& rows, const std::string& style) {
  std::string out = fmt::format("<div class=\"scroll\"><table class=\"{}\"><thead><tr>", style);
  for (const auto& cell : head) out += "<th>" + cell + "</th>";
  out += "</tr></thead><tbody>";
  for (const auto& row : rows) {
    out += "<tr>";
    for (size_t i = 0; i < row.size(); ++i)
      out += (i == 0 ? "<th scope=\"row\">" : "<td>") + row[i] + (i == 0 ? "</th>" : "</td>");
    out += "</tr>";
  }
  return out + "</tbody></table></div>";
}

std::string note(const std::string& text) {
  return "<p class=\"note\">" + escape_html(text) + "</p>";
}

std::string count_text(int64_t number) {
  const std::string digits = std::to_string(number);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && digits[i - 1] != '-' && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string duration_words(double seconds) {
  if (seconds < 10) return fmt::format("{:.1f} s", seconds);
  const auto total = static_cast<int64_t>(std::llround(seconds));
  if (total < 60) return fmt::format("{} s", total);
  if (total < 3600) return fmt::format("{} min {:02} s", total / 60, total % 60);
  return fmt::format("{} h {:02} min", total / 3600, total / 60 % 60);
}

std::string size_text(uint64_t bytes) {
  const auto size = static_cast<double>(bytes);
  if (size >= 1e9) return fmt::format("{:.2f} GB", size / 1e9);
  if (size >= 1e6) return fmt::format("{:.1f} MB", size / 1e6);
  return fmt::format("{:.1f} kB", size / 1e3);
}

std::string value_text(double value) {
  return std::isfinite(value) ? fmt::format("{:.4g}", value) : "not finite";
}

}  // namespace facetrain
