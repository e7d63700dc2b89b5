// The page of a run: one HTML file that needs nothing else, readable in light and dark, on a screen
// of any width and on paper. Each section is a function; the parts that they share stand below.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "trainer/figures.h"
#include "trainer/report/run_evaluation.h"
#include "trainer/report/run_history.h"
#include "trainer/report/svg_chart.h"

namespace facetrain {

struct ReportInput {
  RunHistory history;
  RunEvaluation evaluation;
  std::string program;           // "0.1.0, commit 1f0c..."
  std::filesystem::path output;  // links are relative to its folder
};

// The whole document. Whatever the run lacks (steps, evaluations, finite values) is said in its
// place.
std::string report_page(const ReportInput& input);

// ---- sections, each "" or a <section>
std::string summary_section(const ReportInput& input);
std::string curves_section(const RunHistory& history);
std::string progress_section(const RunHistory& history);  // evaluations during training
std::string evaluation_section(const ReportInput& input);
std::string time_section(const RunHistory& history);
std::string environment_section(const RunHistory& history);
std::string configuration_section(const RunHistory& history);
std::string checkpoints_section(const ReportInput& input);

// ---- parts; text arguments are plain and are escaped here, `html` ones are not
std::string section(const std::string& id, const std::string& title, const std::string& html);
// A card with a chart, its legend (for two lines or more) and notes below.
std::string figure(const std::string& title, const std::string& value, const Chart& chart,
                   const std::vector<std::string>& notes = {});
// Cells are HTML; the first column is a heading of its row. `style`: "words" aligns text.
std::string table(const std::vector<std::string>& head,
                  const std::vector<std::vector<std::string>>& rows, const std::string& style = "");
std::string note(const std::string& text);
// "12,500", "3 h 05 min", "1.2 GB".
std::string count_text(int64_t number);
std::string duration_words(double seconds);
std::string size_text(uint64_t bytes);
// Four significant digits, or "not finite".
std::string value_text(double value);

}  // namespace facetrain
