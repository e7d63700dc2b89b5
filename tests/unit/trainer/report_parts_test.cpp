// The parts of a report: ticks, curves, text made safe, numbers for people.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "trainer/report/html.h"
#include "trainer/report/report_page.h"
#include "trainer/report/ticks.h"

namespace facetrain {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::string labels(const std::vector<Tick>& ticks) {
  std::string text;
  for (const auto& tick : ticks) text += (text.empty() ? "" : " ") + tick.label;
  return text;
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

Chart chart_of(const std::vector<double>& x, const std::vector<double>& y) {
  Chart chart;
  chart.title = "a title";
  chart.x_label = "step";
  chart.lines.push_back({"a", x, y, 0, ChartLine::Style::kLine});
  return chart;
}

TEST(ReportTicks, AreRoundAndWithin) {
  EXPECT_EQ(labels(linear_ticks(0, 1, 5)), "0 0.2 0.4 0.6 0.8 1.0");
  EXPECT_EQ(labels(linear_ticks(-0.03, 0.11, 5)), "0 0.05 0.10");
  EXPECT_EQ(labels(linear_ticks(0, 20000, 4)), "0 5k 10k 15k 20k");
  EXPECT_EQ(labels(linear_ticks(0, 2.1e6, 4)), "0 1M 2M");
  EXPECT_EQ(labels(linear_ticks(-3, 3, 6)), "-3 -2 -1 0 1 2 3");
  EXPECT_EQ(labels(linear_ticks(3, 3, 6)), "3");
  for (const double high : {1e-9, 0.7, 3.0, 44.0, 1e5, 1e12})
    for (const auto& tick : linear_ticks(0, high, 5)) EXPECT_LE(tick.at, high * (1 + 1e-6));
}

TEST(ReportTicks, OfALogarithmicAxisArePowersOfTen) {
  EXPECT_EQ(labels(log_ticks(0.001, 1, 6)), "0.001 0.01 0.1 1");
  EXPECT_EQ(labels(log_ticks(1e-6, 1, 3)), "1e-06 0.001 1");
  EXPECT_EQ(labels(log_ticks(2, 7, 6)), "2 5");
  EXPECT_EQ(labels(log_ticks(0.3, 30, 6)), "1 10");
}

TEST(ReportHtml, EscapesWhatWouldBeMarkup) {
  EXPECT_EQ(escape_html("<a href=\"x\">'&'</a>"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
  EXPECT_EQ(escape_html("Zo\xc3\xab \xe6\x97\xa5 \xf0\x9f\x99\x82"),
            "Zo\xc3\xab \xe6\x97\xa5 \xf0\x9f\x99\x82");
  // No UTF-8: a lone continuation, a cut character, an overlong '<', a surrogate, control bytes.
  for (const std::string bad : {"\x80", "\xe6\x97", "\xc0\xbc", "\xed\xa0\x80", "\x01", "\x7f"}) {
    const std::string escaped = escape_html("a" + bad + "b");
    EXPECT_NE(escaped.find("\uFFFD"), std::string::npos) << escaped;
    EXPECT_EQ(escaped.find('<'), std::string::npos);
    EXPECT_EQ(escaped.front(), 'a');
    EXPECT_EQ(escaped.back(), 'b');
  }
  EXPECT_EQ(escape_path("../a b/c:d?#\"&/é"), "../a%20b/c%3Ad%3F%23%22%26/%C3%A9");
}

TEST(ReportHtml, DataUrisAreBase64) {  // RFC 4648, section 10
  const auto encode = [](const std::string& text) {
    return data_uri("a/b", {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
  };
  EXPECT_EQ(encode(""), "data:a/b;base64,");
  EXPECT_EQ(encode("f"), "data:a/b;base64,Zg==");
  EXPECT_EQ(encode("fo"), "data:a/b;base64,Zm8=");
  EXPECT_EQ(encode("foobar"), "data:a/b;base64,Zm9vYmFy");
  EXPECT_EQ(encode("\xff\xfe\xfd"), "data:a/b;base64,//79");
}

TEST(ReportChart, SmoothingKeepsConstantsAndGaps) {
  std::vector<double> y(400, 3.0);
  y[7] = kNaN;
  const auto smoothed = smooth(y);
  ASSERT_EQ(smoothed.size(), y.size());
  for (size_t i = 0; i < y.size(); ++i) {
    if (i == 7)
      EXPECT_TRUE(std::isnan(smoothed[i]));
    else
      EXPECT_NEAR(smoothed[i], 3, 1e-12) << i;
  }
  EXPECT_EQ(smooth({5, 1}), (std::vector<double>{5, 1}));  // a short curve is left alone
}

TEST(ReportChart, ThinningKeepsPeaksAndGaps) {
  std::vector<double> x, y;
  for (int i = 0; i < 100000; ++i) {
    x.push_back(i);
    y.push_back(std::sin(i * 1e-3));
  }
  y[33333] = 50;
  y[66666] = -70;
  for (int i = 50000; i < 52000; ++i) y[static_cast<size_t>(i)] = kNaN;
  const auto [xs, ys] = thin(x, y, 0, 99999, 400);
  EXPECT_LE(ys.size(), 1604u);
  EXPECT_GE(ys.size(), 800u);
  EXPECT_TRUE(std::is_sorted(xs.begin(), xs.end()));
  EXPECT_NE(std::find(ys.begin(), ys.end(), 50.0), ys.end());
  EXPECT_NE(std::find(ys.begin(), ys.end(), -70.0), ys.end());
  EXPECT_TRUE(std::any_of(ys.begin(), ys.end(), [](double v) { return std::isnan(v); }));
  for (size_t i = 0; i < xs.size(); ++i)
    EXPECT_TRUE(std::isnan(ys[i]) || ys[i] == y[static_cast<size_t>(xs[i])]) << i;
}

TEST(ReportChart, ScalesPointsIntoThePlot) {
  // The plot is 420 x 206 units; y has 5 % of air at both ends.
  Chart chart = chart_of({0, 50, 100}, {1, 2, 3});
  chart.low_x = 0;
  chart.high_x = 100;
  chart.low_y = 1;
  chart.high_y = 3;
  EXPECT_NE(draw(chart).find("d=\"M0.0 206.0L210.0 103.0L420.0 0.0\""), std::string::npos)
      << draw(chart);
  chart.log_x = true;
  chart.low_x = 1;
  chart.lines = chart_of({1, 10, 100}, {1, 2, 3}).lines;
  EXPECT_NE(draw(chart).find("d=\"M0.0 206.0L210.0 103.0L420.0 0.0\""), std::string::npos);
}

TEST(ReportChart, GapsBreakTheLineAndNothingIsSaid) {
  const std::string svg = draw(chart_of({1, 2, 3, 4, 5}, {1, 2, kNaN, 2, 1}));
  const size_t line = svg.find("class=\"line c0\"");
  ASSERT_NE(line, std::string::npos);
  EXPECT_EQ(count(svg.substr(line, svg.find("/>", line) - line), "M"), 2u) << svg;
  EXPECT_NE(svg.find("a not finite"), std::string::npos) << "under the mouse";
  for (const std::vector<double>& values :
       {std::vector<double>{}, {kNaN, kNaN}, {INFINITY, kNaN}}) {
    const std::vector<double> x(values.size(), 1);
    EXPECT_NE(draw(chart_of(x, values)).find("no finite value"), std::string::npos);
  }
  const std::string one = draw(chart_of({7}, {0}));
  EXPECT_NE(one.find("<circle"), std::string::npos) << "a single point is a dot";
  EXPECT_NE(one.find(">7</text>"), std::string::npos);
  EXPECT_EQ(one.find("nan"), std::string::npos);
}

TEST(ReportPage, NumbersAreReadable) {
  EXPECT_EQ(count_text(0), "0");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(-1234567), "-1,234,567");
  EXPECT_EQ(duration_words(3.21), "3.2 s");
  EXPECT_EQ(duration_words(59.7), "1 min 00 s");
  EXPECT_EQ(duration_words(3 * 3600 + 5 * 60), "3 h 05 min");
  EXPECT_EQ(size_text(1'230'000'000), "1.23 GB");
  EXPECT_EQ(value_text(kNaN), "not finite");
}

}  // namespace
}  // namespace facetrain
