#include "trainer/report/ticks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace facetrain {
namespace {

// The smallest of 1, 2, 5, 10 times a power of ten that is not below `step`.
double nice_step(double step) {
  const double power = std::pow(10, std::floor(std::log10(step)));
  for (const double digit : {1.0, 2.0, 5.0})
    if (digit * power >= step * (1 - 1e-9)) return digit * power;
  return 10 * power;
}

// Powers of ten as they are read: 0.001 ... 1000, beyond that 1e-05.
std::string power_label(double value) {
  return value >= 1e-4 && value < 1e4 ? fmt::format("{:g}", value) : fmt::format("{:.0e}", value);
}

}  // namespace

std::string tick_label(double value, double step, double largest) {
  if (std::abs(value) < step * 1e-6) return "0";
  const auto with_unit = [&](double unit, const char* name) {
    const int digits = static_cast<int>(std::ceil(-std::log10(step / unit) - 1e-9));
    return fmt::format("{:.{}f}{}", value / unit, std::clamp(digits, 0, 3), name);
  };
  if (largest >= 1e15 || step < 1e-5) return fmt::format("{:g}", value);
  if (largest >= 1e9) return with_unit(1e9, "G");
  if (largest >= 1e6) return with_unit(1e6, "M");
  if (largest >= 1e4) return with_unit(1e3, "k");
  const int digits = static_cast<int>(std::ceil(-std::log10(step) - 1e-9));
  return fmt::format("{:.{}f}", value, std::max(digits, 0));
}

std::vector<Tick> linear_ticks(double low, double high, int count) {
  const double range = high - low;
  if (!(range > 0) || !std::isfinite(range)) return {{low, fmt::format("{:g}", low)}};
  const double step = nice_step(range / std::max(count, 1));
  const auto first = std::ceil(low / step - 1e-9), last = std::floor(high / step + 1e-9);
  const double largest = std::max(std::abs(low), std::abs(high));
  std::vector<Tick> ticks;
  for (double i = first; i <= last; ++i)
    ticks.push_back({i * step, tick_label(i * step, step, largest)});
  return ticks;
}

std::vector<Tick> log_ticks(double low, double high, int count) {
  const auto first = static_cast<int64_t>(std::ceil(std::log10(low) - 1e-9));
  const auto last = static_cast<int64_t>(std::floor(std::log10(high) + 1e-9));
  std::vector<Tick> ticks;
  if (last - first >= 1) {
    const int64_t stride = (last - first) / std::max(count, 1) + 1;
    for (int64_t power = first; power <= last; ++power)
      if ((last - power) % stride == 0) {
        const double at = std::pow(10, static_cast<double>(power));
        ticks.push_back({at, power_label(at)});
      }
    return ticks;
  }
  for (int64_t power = first - 1; power <= last + 1; ++power)
    for (const double digit : {1.0, 2.0, 5.0}) {
      const double at = digit * std::pow(10, static_cast<double>(power));
      if (at >= low * (1 - 1e-9) && at <= high * (1 + 1e-9)) ticks.push_back({at, power_label(at)});
    }
  return ticks;
}

}  // namespace facetrain
