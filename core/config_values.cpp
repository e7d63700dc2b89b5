// How configuration values are read, written and complained about.
#include <charconv>
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>

#include "core/config.h"

namespace facetrain {
namespace {

using Kind = ConfigNode::Kind;

ConfigNodePtr make_scalar(std::string text) {
  auto node = std::make_shared<ConfigNode>();
  node->kind = Kind::kScalar;
  node->scalar = std::move(text);
  return node;
}

[[noreturn]] void wrong_type(const ConfigNode& node, const char* wanted) {
  FT_FAIL("{}: wanted {}, found '{}'", node.place(), wanted, config_detail::to_text(node));
}

// The whole of `text` as a number; 1_000_000 is how people write large counts.
template <class Number>
std::optional<Number> parse_number(std::string text) {
  std::erase(text, '_');
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

// Accepts 1e6 too, as long as it is whole and exact.
template <class Integer>
Integer read_integer(const ConfigNode& node) {
  if (node.kind != Kind::kScalar) wrong_type(node, "an integer");
  if (const auto value = parse_number<Integer>(node.scalar)) return *value;
  const auto number = parse_number<double>(node.scalar);
  constexpr double kExact = 9e15;
  const double low = std::numeric_limits<Integer>::is_signed ? -kExact : 0;
  const double high = std::min(kExact, static_cast<double>(std::numeric_limits<Integer>::max()));
  if (!number || *number != std::floor(*number) || *number < low || *number > high)
    wrong_type(node, "an integer");
  return static_cast<Integer>(*number);
}

// The fewest insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i)
    for (size_t j = 1; j <= b.size(); ++j) {
      d[i][j] =
          std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1])});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
    }
  return d[a.size()][b.size()];
}

// Points of one unit must follow each other; steps and epochs can only be compared when the data
// are known.
void check_order(const ConfigNode& node, const Scheduled& schedule) {
  for (size_t i = 1; i < schedule.at.size(); ++i) {
    const Duration &before = schedule.at[i - 1], &after = schedule.at[i];
    FT_CHECK(before.epochs != after.epochs || before.value < after.value,
             "{}: `at` must increase, found {} after {}", node.place(), after.text(),
             before.text());
  }
}

// "file:line" of a key, without its path.
std::string line_of(const ConfigNode& node) {
  const bool has_line = !node.file.empty() && node.line > 0 && node.file != "command line";
  return has_line ? fmt::format("{}:{}", node.file, node.line)
                  : (node.file.empty() ? node.place() : node.file);
}

}  // namespace

int64_t Duration::steps(double steps_per_epoch) const {
  return epochs ? std::llround(value * steps_per_epoch) : std::llround(value);
}

bool Duration::due(int64_t step, double steps_per_epoch) const {
  const double period = epochs ? value * steps_per_epoch : value;
  if (period <= 0) return false;
  // The hair makes up for a quotient just below its whole number.
  const auto periods = [&](int64_t s) {
    return std::floor(static_cast<double>(s) / period + 1e-9);
  };
  return periods(step) > periods(step - 1);
}

std::string Duration::text() const {
  return epochs ? fmt::format("{} epochs", value) : fmt::format("{}", std::llround(value));
}

double Scheduled::operator()(int64_t step, double steps_per_epoch) const {
  size_t next = 0;
  while (next < at.size() && at[next].steps(steps_per_epoch) <= step) ++next;
  if (next == 0) return value.front();
  if (next == at.size() || interpolate == "none") return value[next - 1];
  const auto from = static_cast<double>(at[next - 1].steps(steps_per_epoch));
  const auto to = static_cast<double>(at[next].steps(steps_per_epoch));
  double part = (static_cast<double>(step) - from) / (to - from);
  if (interpolate == "cosine") part = 0.5 - 0.5 * std::cos(std::numbers::pi * part);
  return value[next - 1] + part * (value[next] - value[next - 1]);
}

namespace config_detail {

void read(const ConfigNode& node, bool& value) {
  if (node.scalar == "true" || node.scalar == "yes" || node.scalar == "on")
    value = true;
  else if (node.scalar == "false" || node.scalar == "no" || node.scalar == "off")
    value = false;
  else
    wrong_type(node, "true or false");
}
void read(const ConfigNode& node, int64_t& value) { value = read_integer<int64_t>(node); }
void read(const ConfigNode& node, uint64_t& value) { value = read_integer<uint64_t>(node); }
void read(const ConfigNode& node, int& value) { value = read_integer<int>(node); }
void read(const ConfigNode& node, double& value) {
  const auto number = parse_number<double>(node.scalar);
  if (node.kind != Kind::kScalar || !number || !std::isfinite(*number))
    wrong_type(node, "a number");
  value = *number;
}
void read(const ConfigNode& node, std::string& value) {
  if (node.kind != Kind::kScalar) wrong_type(node, "one value");
  value = node.scalar;
}

void read(const ConfigNode& node, Duration& value) {
  constexpr const char* kWanted = "a number of steps, or 'N epochs'";
  if (node.kind != Kind::kScalar) wrong_type(node, kWanted);
  const std::string& text = node.scalar;
  const size_t space = text.find(' ');
  const std::string unit = space == std::string::npos ? "steps" : text.substr(space + 1);
  value.epochs = unit == "epochs" || unit == "epoch";
  const auto number = parse_number<double>(text.substr(0, space));
  const bool whole = number && *number == std::floor(*number) && std::abs(*number) < 9e15;
  if (!number || !std::isfinite(*number) || (!value.epochs && (unit != "steps" || !whole)))
    wrong_type(node, kWanted);
  value.value = *number;
}

void read(const ConfigNode& node, Scheduled& value) {
  if (node.kind == Kind::kScalar) {
    double constant{};
    read(node, constant);
    value = Scheduled(constant);
    return;
  }
  if (node.kind != Kind::kMap) wrong_type(node, "a number or {at: [...], value: [...]}");
  value = Scheduled();
  for (const auto& [key, item] : node.map) {
    if (key == "at") {
      read(*item, value.at);
    } else if (key == "value") {
      read(*item, value.value);
    } else if (key == "interpolate") {
      read(*item, value.interpolate);
      check_choice(*item, value.interpolate, one_of("none", "linear", "cosine"));
    } else {
      unknown_keys(node, {"at", "value", "interpolate"});
    }
  }
  FT_CHECK(!value.at.empty() && value.at.size() == value.value.size(),
           "{}: `at` and `value` must be lists of the same length, found {} and {} items",
           node.place(), value.at.size(), value.value.size());
  check_order(node, value);
}

ConfigNodePtr write(bool value) { return make_scalar(value ? "true" : "false"); }
ConfigNodePtr write(int64_t value) { return make_scalar(fmt::format("{}", value)); }
ConfigNodePtr write(uint64_t value) { return make_scalar(fmt::format("{}", value)); }
ConfigNodePtr write(int value) { return make_scalar(fmt::format("{}", value)); }
ConfigNodePtr write(double value) { return make_scalar(fmt::format("{}", value)); }
ConfigNodePtr write(const std::string& value) { return make_scalar(value); }
ConfigNodePtr write(const Duration& value) { return make_scalar(value.text()); }
ConfigNodePtr write(const Scheduled& value) {
  if (value.at.size() == 1) return write(value.value.front());
  auto node = std::make_shared<ConfigNode>();
  node->kind = Kind::kMap;
  node->map.emplace_back("at", write(value.at));
  node->map.emplace_back("value", write(value.value));
  node->map.emplace_back("interpolate", write(value.interpolate));
  return node;
}

void check_range(const ConfigNode& node, double value, Range range) {
  if (value >= range.low && value <= range.high) return;
  if (range.high >= 1e300)
    FT_FAIL("{}: wanted at least {:g}, found {:g}", node.place(), range.low, value);
  FT_FAIL("{}: wanted a value in {:g} ... {:g}, found {:g}", node.place(), range.low, range.high,
          value);
}

void check_choice(const ConfigNode& node, const std::string& value, const Choices& choices) {
  if (std::find(choices.values.begin(), choices.values.end(), value) != choices.values.end())
    return;
  FT_FAIL("{}: wanted one of {}, found '{}'", node.place(), fmt::join(choices.values, ", "), value);
}

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  constexpr size_t kLongest = 64;  // nobody mistypes more, and the table would grow
  if (word.size() > kLongest) return "";
  std::string best;
  size_t least = std::max<size_t>(1, word.size() / 3) + 1;
  for (const auto& candidate : known)
    if (const size_t distance = edit_distance(word, candidate); distance < least) {
      least = distance;
      best = candidate;
    }
  return best;
}

void unknown_keys(const ConfigNode& node, const std::vector<std::string>& known) {
  std::vector<std::string> complaints, sorted(known);
  for (const auto& [key, value] : node.map) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    if (key == "name" && value->used) continue;  // it chose what parses this section
    const std::string guess = nearest(key, known);
    complaints.push_back(
        fmt::format("{}: unknown key '{}'{}", line_of(*value), value->path,
                    guess.empty() ? "" : fmt::format(" (did you mean '{}'?)", guess)));
  }
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  FT_FAIL("{}; {} takes: {}", fmt::join(complaints, "; "),
          node.path.empty() ? "the file" : "'" + node.path + "'", fmt::join(sorted, ", "));
}

}  // namespace config_detail
}  // namespace facetrain
