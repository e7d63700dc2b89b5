#include "trainer/report/svg_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "trainer/report/html.h"
#include "trainer/report/ticks.h"

namespace facetrain {
namespace {

// Of the picture, in its own units; the page scales it.
constexpr double kWidth = 480, kHeight = 250, kLeft = 48, kRight = 12, kTop = 10, kBottom = 34;
constexpr double kPlotWidth = kWidth - kLeft - kRight, kPlotHeight = kHeight - kTop - kBottom;
constexpr int kHoverColumns = 48;

// An axis: values to units of the plot.
class Scale {
 public:
  Scale(double low, double high, bool log, double length)
      : low_(log ? std::log10(low) : low),
        high_(log ? std::log10(high) : high),
        log_(log),
        length_(length) {}
  double operator()(double value) const {
    return ((log_ ? std::log10(value) : value) - low_) / (high_ - low_) * length_;
  }
  bool takes(double value) const { return std::isfinite(value) && (!log_ || value > 0); }
  double back(double place) const {
    const double value = low_ + place / length_ * (high_ - low_);
    return log_ ? std::pow(10, value) : value;
  }

 private:
  double low_, high_;
  bool log_;
  double length_;
};

struct Limits {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  bool empty() const { return low > high; }
  void take(double value, bool log) {
    if (!std::isfinite(value) || (log && value <= 0)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  // Makes room where all values are one, and `share` of air at both ends.
  void widen(bool log, double share) {
    if (log) {
      const double factor = low == high ? 2 : std::pow(high / low, share);
      low /= factor;
      high *= factor;
    } else {
      const double air = low == high ? std::max(std::abs(low) * 0.1, 1e-6) : (high - low) * share;
      low -= air;
      high += air;
    }
  }
};

struct Axes {
  Limits x_limits, y_limits;
  Scale x, y;
  std::optional<double> only_x;  // where all points have one
};

// Nothing when no line has a finite point.
std::optional<Axes> find_axes(const Chart& chart) {
  Limits x, y;
  bool from_zero = false, few = true;
  for (const auto& line : chart.lines) {
    few = few && line.x.size() <= kFewPoints;
    from_zero = from_zero || line.style == ChartLine::Style::kArea;
    for (size_t i = 0; i < line.y.size(); ++i) {
      if (!std::isfinite(line.y[i]) || (chart.log_y && line.y[i] <= 0)) continue;
      x.take(line.x[i], chart.log_x);
      y.take(line.y[i], chart.log_y);
    }
  }
  if (x.empty() || y.empty()) return std::nullopt;
  const auto only_x = x.low == x.high ? std::optional(x.low) : std::nullopt;
  // Few points are dots, and those at the ends want to be whole.
  if (x.low == x.high || few) x.widen(chart.log_x, 0.015);
  y.widen(chart.log_y, 0.05);
  if (from_zero) y.low = 0;
  x = {chart.low_x.value_or(x.low), chart.high_x.value_or(x.high)};
  y = {chart.low_y.value_or(y.low), chart.high_y.value_or(y.high)};
  return Axes{x, y, Scale(x.low, x.high, chart.log_x, kPlotWidth),
              Scale(y.low, y.high, chart.log_y, kPlotHeight), only_x};
}

std::string draw_axes(const Chart& chart, const Axes& axes) {
  std::string out;
  const auto& [x_limits, y_limits, x, y, only_x] = axes;
  const auto y_ticks = chart.log_y ? log_ticks(y_limits.low, y_limits.high, 6)
                                   : linear_ticks(y_limits.low, y_limits.high, 7);
  for (const auto& tick : y_ticks) {
    const double place = kTop + kPlotHeight - y(tick.at);
    out += fmt::format(
        "<path class=\"grid\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick end\">{}</text>",
        kLeft, place, kLeft + kPlotWidth, kLeft - 6, place + 4, tick.label);
  }
  const auto x_ticks = only_x        ? std::vector<Tick>{{*only_x, fmt::format("{:g}", *only_x)}}
                       : chart.log_x ? log_ticks(x_limits.low, x_limits.high, 6)
                                     : linear_ticks(x_limits.low, x_limits.high, 6);
  const double bottom = kTop + kPlotHeight;
  for (const auto& tick : x_ticks) {
    const double place = kLeft + x(tick.at);
    out += fmt::format(
        "<path class=\"grid\" d=\"M{:.1f} {:.1f}v4\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick mid\">{}</text>",
        place, bottom, place, bottom + 17, tick.label);
  }
  out += fmt::format("<path class=\"axis\" d=\"M{:.1f} {:.1f}H{:.1f}\"/>", kLeft, bottom,
                     kLeft + kPlotWidth);
  out += fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick end\">{}</text>",
                     kWidth - kRight, kHeight - 3, escape_html(chart.x_label));
  return out;
}

std::string dot(double x, double y, int colour, double radius) {
  return fmt::format("<circle class=\"f{}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\"/>", colour, x,
                     y, radius);
}

// The line within the plot, y upwards turned into y downwards.
std::string draw_line(const Chart& chart, const ChartLine& line, const Axes& axes) {
  using Style = ChartLine::Style;
  auto [xs, ys] = std::pair(line.x, line.y);
  if (!chart.log_x && ys.size() > static_cast<size_t>(4 * kPlotWidth))
    std::tie(xs, ys) =
        thin(line.x, line.y, axes.x_limits.low, axes.x_limits.high, static_cast<int>(kPlotWidth));
  const bool dots =
      line.style == Style::kDots || (line.style == Style::kLine && line.y.size() <= kFewPoints);
  std::string path, marks;
  double first = 0, last = 0;
  size_t run = 0;  // points since the last gap
  const auto close = [&] {
    if (line.style == Style::kArea && run > 0)
      path += fmt::format("L{:.1f} {:.1f}L{:.1f} {:.1f}Z", last, kPlotHeight, first, kPlotHeight);
    run = 0;
  };
  for (size_t i = 0; i < ys.size(); ++i) {
    if (!axes.x.takes(xs[i]) || !axes.y.takes(ys[i])) {
      close();
      continue;
    }
    const double x = axes.x(xs[i]), y = kPlotHeight - axes.y(ys[i]);
    const bool alone = run == 0 && (i + 1 == ys.size() || !axes.y.takes(ys[i + 1]));
    if (dots || (alone && line.style != Style::kArea))
      marks += dot(x, y, line.colour, line.style == Style::kDots ? 3.5 : 2.5);
    if (run == 0) first = x;
    path += fmt::format("{}{:.1f} {:.1f}", run == 0 ? 'M' : 'L', x, y);
    last = x;
    ++run;
  }
  close();
  if (line.style == Style::kDots) return marks;
  const char* kind = line.style == Style::kPale   ? "pale "
                     : line.style == Style::kArea ? "area "
                                                  : "line ";
  return fmt::format("<path class=\"{}c{}\" d=\"{}\"/>", kind, line.colour, path) + marks;
}

std::string draw_marks(const Chart& chart, const Axes& axes) {
  std::string out;
  double row = 12;
  for (const auto& mark : chart.marks) {
    const double x = axes.x(mark.x);
    if (!(x >= 0 && x <= kPlotWidth)) continue;
    const bool left = x > kPlotWidth * 0.6;
    out += fmt::format(
        "<path class=\"mark\" d=\"M{:.1f} 0V{:.1f}\"/>"
        "<text x=\"{:.1f}\" y=\"{:.1f}\" class=\"tick{}\">{}</text>",
        x, kPlotHeight, left ? x - 5 : x + 5, row, left ? " end" : "", escape_html(mark.label));
    row += 14;
  }
  return out;
}

// Invisible columns whose tooltips hold the values of all lines there.
std::string draw_hover(const Chart& chart, const Axes& axes) {
  const auto longest = std::ranges::max_element(
      chart.lines, {}, [](const ChartLine& line) { return line.x.size(); });
  std::string out;
  if (longest == chart.lines.end() || longest->x.empty()) return out;
  const auto& xs = longest->x;
  const size_t stride = (xs.size() + kHoverColumns - 1) / kHoverColumns;
  std::vector<double> centres;
  for (size_t i = (xs.size() - 1) % stride; i < xs.size(); i += stride)
    if (axes.x.takes(xs[i])) centres.push_back(xs[i]);
  for (size_t i = 0; i < centres.size(); ++i) {
    const double here = axes.x(centres[i]);
    const double left = i == 0 ? 0 : (axes.x(centres[i - 1]) + here) / 2;
    const double right = i + 1 == centres.size() ? kPlotWidth : (axes.x(centres[i + 1]) + here) / 2;
    if (right <= 0 || left >= kPlotWidth) continue;
    std::string text = fmt::format("{} {:g}", chart.x_label, centres[i]);
    for (const auto& line : chart.lines) {
      const auto found = std::ranges::lower_bound(line.x, centres[i]);
      if (found == line.x.end() || *found != centres[i]) continue;
      const double y = line.y[static_cast<size_t>(found - line.x.begin())];
      text += fmt::format("\n{} {}", line.name,
                          std::isfinite(y) ? fmt::format("{:.5g}", y) : "not finite");
    }
    out += fmt::format(
        "<rect class=\"hover\" x=\"{:.1f}\" y=\"0\" width=\"{:.1f}\" "
        "height=\"{:.1f}\"><title>{}</title></rect>",
        left, right - left, kPlotHeight, escape_html(text));
  }
  return out;
}

}  // namespace

std::string draw(const Chart& chart) {
  std::string out = fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">",
                                kWidth, kHeight, escape_html(chart.title));
  const auto axes = find_axes(chart);
  if (!axes)
    return out +
           fmt::format("<text x=\"{}\" y=\"{}\" class=\"tick mid\">no finite value</text></svg>",
                       kWidth / 2, kHeight / 2);
  out += draw_axes(chart, *axes);
  // A picture of its own cuts off what is beyond the limits.
  out += fmt::format("<svg x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" class=\"plot\">", kLeft,
                     kTop, kPlotWidth, kPlotHeight);
  if (chart.hover) out += draw_hover(chart, *axes);
  for (const auto& line : chart.lines) out += draw_line(chart, line, *axes);
  return out + draw_marks(chart, *axes) + "</svg></svg>";
}

std::vector<double> smooth(const std::vector<double>& y) {
  const double weight = 1 / std::max(1.0, static_cast<double>(y.size()) / 40);
  std::vector<double> out;
  double mean = 0, sum = 0;
  for (const double value : y) {
    if (!std::isfinite(value)) {
      out.push_back(std::numeric_limits<double>::quiet_NaN());
      continue;
    }
    mean += weight * (value - mean);
    sum += weight * (1 - sum);  // of the weights so far: the start counts for nothing
    out.push_back(mean / sum);
  }
  return out;
}

std::vector<ChartLine> smoothed_lines(const std::string& name, const std::vector<double>& x,
                                      const std::vector<double>& y, bool log) {
  if (y.size() <= kFewPoints) return {{name, x, y, 0, ChartLine::Style::kLine}};
  std::vector<double> values = y;
  if (log)
    for (double& value : values) value = std::log(value);
  values = smooth(values);
  if (log)
    for (double& value : values) value = std::exp(value);
  return {{name, x, y, 0, ChartLine::Style::kPale},
          {"smoothed", x, values, 0, ChartLine::Style::kLine}};
}

std::pair<std::vector<double>, std::vector<double>> thin(const std::vector<double>& x,
                                                         const std::vector<double>& y, double low,
                                                         double high, int columns) {
  std::vector<double> xs, ys;
  const auto column_of = [&](size_t i) {
    return static_cast<int64_t>((x[i] - low) / (high - low) * columns);
  };
  for (size_t begin = 0; begin < x.size();) {
    size_t end = begin;
    std::vector<size_t> keep;  // of this column
    size_t lowest = begin, highest = begin;
    for (; end < x.size() && column_of(end) == column_of(begin); ++end) {
      if (!std::isfinite(y[end])) continue;
      if (keep.empty()) keep.push_back(lowest = highest = end);
      if (y[end] < y[lowest]) lowest = end;
      if (y[end] > y[highest]) highest = end;
    }
    if (keep.empty()) {
      keep.push_back(begin);  // a column of gaps is a gap
    } else {
      size_t last = end - 1;
      while (!std::isfinite(y[last])) --last;
      keep.insert(keep.end(), {lowest, highest, last});
      std::ranges::sort(keep);
      keep.erase(std::unique(keep.begin(), keep.end()), keep.end());
    }
    for (const size_t i : keep) {
      xs.push_back(x[i]);
      ys.push_back(y[i]);
    }
    begin = end;
  }
  return {xs, ys};
}

}  // namespace facetrain
