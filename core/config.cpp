#include "core/config.h"

#include <yaml-cpp/yaml.h>

#include <charconv>
#include <cmath>
#include <fstream>
#include <limits>
#include <numbers>
#include <optional>
#include <sstream>

namespace facetrain {
namespace {

using Kind = ConfigNode::Kind;

ConfigNodePtr make_scalar(std::string text) {
  auto node = std::make_shared<ConfigNode>();
  node->kind = Kind::kScalar;
  node->scalar = std::move(text);
  return node;
}

ConfigNodePtr from_yaml(const YAML::Node& yaml, const std::string& file, const std::string& path,
                        int line) {
  auto node = std::make_shared<ConfigNode>();
  node->file = file;
  node->line = yaml.Mark().line >= 0 ? yaml.Mark().line + 1 : line;
  node->path = path;
  if (yaml.IsScalar()) {
    node->kind = Kind::kScalar;
    node->scalar = yaml.Scalar();
  } else if (yaml.IsSequence()) {
    node->kind = Kind::kList;
    int index = 0;
    for (const auto& item : yaml)
      node->list.push_back(from_yaml(item, file, fmt::format("{}[{}]", path, index++), node->line));
  } else if (yaml.IsMap()) {
    node->kind = Kind::kMap;
    for (const auto& item : yaml) {
      const std::string key = item.first.Scalar();
      const int key_line = item.first.Mark().line + 1;
      FT_CHECK(!node->find(key), "{}:{}: key '{}' stands twice in one section: keep one", file,
               key_line, key);
      auto value = from_yaml(item.second, file, path.empty() ? key : path + "." + key, key_line);
      value->line = key_line;  // where a reader looks for the key
      node->map.emplace_back(key, std::move(value));
    }
  }
  return node;
}

ConfigNodePtr parse_text(const std::string& text, const std::string& file, const std::string& path) {
  try {
    return from_yaml(YAML::Load(text), file, path, 1);
  } catch (const YAML::Exception& error) {
    FT_FAIL("{}:{}: not YAML: {}", file, error.mark.line + 1, error.msg);
  }
}

void set_child(ConfigNode& parent, const std::string& key, ConfigNodePtr value) {
  for (auto& [name, node] : parent.map)
    if (name == key) {
      node = std::move(value);
      return;
    }
  parent.map.emplace_back(key, std::move(value));
}

// True when `child` gives a section another name than `base` has: the other keys of base belonged to the old choice.
bool renames(const ConfigNode& base, const ConfigNode& child) {
  const auto old_name = base.find("name"), new_name = child.find("name");
  return new_name && old_name && old_name->scalar != new_name->scalar;
}

// Deep merge: maps are merged, everything else is replaced.
void merge(ConfigNode& base, const ConfigNode& child) {
  if (renames(base, child)) base.map.clear();
  for (const auto& [key, value] : child.map) {
    const auto old = base.find(key);
    if (old && old->kind == Kind::kMap && value->kind == Kind::kMap)
      merge(*old, *value);
    else
      set_child(base, key, value);
  }
}

ConfigNodePtr load_file(const std::filesystem::path& file, int depth) {
  FT_CHECK(depth < 16, "{}: more than 16 `base:` files in a chain; is it a circle?", file.string());
  std::ifstream in(file);
  FT_CHECK(in, "{}: cannot read this configuration file; check the path", file.string());
  std::stringstream text;
  text << in.rdbuf();
  auto node = parse_text(text.str(), file.string(), "");
  if (node->kind == Kind::kNull) node->kind = Kind::kMap;
  FT_CHECK(node->kind == Kind::kMap, "{}: wanted sections (key: value lines), found a {}",
           file.string(), node->kind == Kind::kList ? "list" : "single value");
  const auto base = node->find("base");
  if (!base) return node;
  FT_CHECK(base->kind == Kind::kScalar, "{}: `base` names one file", base->place());
  std::erase_if(node->map, [](const auto& item) { return item.first == "base"; });
  auto merged = load_file(file.parent_path() / base->scalar, depth + 1);
  merge(*merged, *node);
  return merged;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitute = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, substitute});
    }
  }
  return row[b.size()];
}

void emit(YAML::Emitter& out, const ConfigNode& node) {
  switch (node.kind) {
    case Kind::kNull: out << YAML::Null; break;
    case Kind::kScalar: out << node.scalar; break;
    case Kind::kList:
      out << YAML::Flow << YAML::BeginSeq;
      for (const auto& item : node.list) emit(out, *item);
      out << YAML::EndSeq;
      break;
    case Kind::kMap:
      out << YAML::BeginMap;
      for (const auto& [key, value] : node.map) {
        if (value->kind == Kind::kNull || (value->kind == Kind::kMap && value->map.empty())) continue;
        out << YAML::Key << key << YAML::Value;
        emit(out, *value);
      }
      out << YAML::EndMap;
      break;
  }
}

[[noreturn]] void wrong_type(const ConfigNode& node, const char* wanted) {
  FT_FAIL("{}: wanted {}, found '{}'", node.place(), wanted, config_detail::to_text(node));
}

template <class Integer>
Integer read_integer(const ConfigNode& node) {
  if (node.kind != Kind::kScalar) wrong_type(node, "an integer");
  // 1e6 and 1_000_000 are how people write large counts.
  std::string text = node.scalar;
  std::erase(text, '_');
  Integer value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return value;
  double number{};
  const auto [stop, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure != std::errc() || stop != text.data() + text.size() || number != std::floor(number) ||
      std::abs(number) > 9e15 || (number < 0 && !std::numeric_limits<Integer>::is_signed) ||
      number > static_cast<double>(std::numeric_limits<Integer>::max()))
    wrong_type(node, "an integer");
  return static_cast<Integer>(number);
}

}  // namespace

std::shared_ptr<ConfigNode> ConfigNode::find(std::string_view key) const {
  for (const auto& [name, node] : map)
    if (name == key) return node;
  return nullptr;
}

std::string ConfigNode::place() const {
  const std::string where = path.empty() ? "configuration" : path;
  if (file.empty()) return where;
  return line > 0 && file != "command line" ? fmt::format("{}:{}: {}", file, line, where)
                                            : fmt::format("{}: {}", file, where);
}

int64_t Duration::steps(double steps_per_epoch) const {
  return epochs ? std::llround(value * steps_per_epoch) : std::llround(value);
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

std::string to_text(const ConfigNode& node) {
  YAML::Emitter out;
  out << YAML::Flow;
  emit(out, node);
  return out.c_str();
}

ConfigNodePtr child(ConfigNode& parent, const std::string& key) {
  if (auto found = parent.find(key)) return found;
  auto node = std::make_shared<ConfigNode>();
  node->path = parent.path.empty() ? key : parent.path + "." + key;
  parent.map.emplace_back(key, node);
  return node;
}

void read(const ConfigNode& node, bool& value) {
  if (node.scalar == "true" || node.scalar == "yes" || node.scalar == "on") value = true;
  else if (node.scalar == "false" || node.scalar == "no" || node.scalar == "off") value = false;
  else wrong_type(node, "true or false");
}
void read(const ConfigNode& node, int64_t& value) { value = read_integer<int64_t>(node); }
void read(const ConfigNode& node, uint64_t& value) { value = read_integer<uint64_t>(node); }
void read(const ConfigNode& node, int& value) { value = read_integer<int>(node); }
void read(const ConfigNode& node, double& value) {
  std::string text = node.scalar;
  std::erase(text, '_');
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (node.kind != Kind::kScalar || error != std::errc() || end != text.data() + text.size() ||
      !std::isfinite(value))
    wrong_type(node, "a number");
}
void read(const ConfigNode& node, std::string& value) {
  if (node.kind != Kind::kScalar) wrong_type(node, "one value");
  value = node.scalar;
}
void read(const ConfigNode& node, Duration& value) {
  static const std::string kEpochs = " epochs", kEpoch = " epoch", kSteps = " steps";
  ConfigNode number = node;
  value.epochs = false;
  for (const auto& unit : {kEpochs, kEpoch, kSteps})
    if (node.scalar.ends_with(unit)) {
      number.scalar = node.scalar.substr(0, node.scalar.size() - unit.size());
      value.epochs = unit != kSteps;
      break;
    }
  try {
    if (value.epochs) read(number, value.value);
    else value.value = static_cast<double>(read_integer<int64_t>(number));
  } catch (const Error&) {
    wrong_type(node, "a number of steps, or 'N epochs'");
  }
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
  std::vector<std::string> known{"at", "value", "interpolate"};
  for (const auto& [key, item] : node.map) {
    if (key == "at") read(*item, value.at);
    else if (key == "value") read(*item, value.value);
    else if (key == "interpolate") read(*item, value.interpolate), check_choice(*item, value.interpolate, one_of("none", "linear", "cosine"));
    else unknown_keys(node, known);
  }
  FT_CHECK(!value.at.empty() && value.at.size() == value.value.size(),
           "{}: `at` and `value` must be lists of the same length, found {} and {} items",
           node.place(), value.at.size(), value.value.size());
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
  FT_FAIL("{}: wanted a value in {:g} ... {:g}, found {:g}", node.place(), range.low, range.high, value);
}

void check_choice(const ConfigNode& node, const std::string& value, const Choices& choices) {
  if (std::find(choices.values.begin(), choices.values.end(), value) != choices.values.end()) return;
  FT_FAIL("{}: wanted one of {}, found '{}'", node.place(), fmt::join(choices.values, ", "), value);
}

std::string nearest(const std::string& word, const std::vector<std::string>& known) {
  const auto best = std::min_element(known.begin(), known.end(), [&](const auto& a, const auto& b) {
    return edit_distance(word, a) < edit_distance(word, b);
  });
  const bool close = best != known.end() && edit_distance(word, *best) <= std::max<size_t>(2, word.size() / 3);
  return close ? *best : "";
}

void unknown_keys(const ConfigNode& node, const std::vector<std::string>& known) {
  std::vector<std::string> complaints;
  for (const auto& [key, value] : node.map) {
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    const std::string guess = nearest(key, known);
    complaints.push_back(fmt::format("{}: unknown key '{}'{}", value->file.empty() ? value->place() : value->line > 0 && value->file != "command line" ? fmt::format("{}:{}", value->file, value->line) : value->file,
                                     value->path, guess.empty() ? "" : fmt::format(" (did you mean '{}'?)", guess)));
  }
  std::vector<std::string> sorted(known);
  std::sort(sorted.begin(), sorted.end());
  sorted.erase(std::unique(sorted.begin(), sorted.end()), sorted.end());
  FT_FAIL("{}; {} takes: {}", fmt::join(complaints, "; "),
          node.path.empty() ? "the file" : "'" + node.path + "'", fmt::join(sorted, ", "));
}

}  // namespace config_detail

Config::Config() : node_(std::make_shared<ConfigNode>()) { node_->kind = Kind::kMap; }

Config Config::parse(const std::string& yaml, const std::string& file) {
  auto node = parse_text(yaml, file, "");
  if (node->kind == Kind::kNull) node->kind = Kind::kMap;
  return Config(node);
}

Config Config::load(const std::filesystem::path& file, std::span<const std::string> overrides) {
  Config config(load_file(file, 0));
  config.override_with(overrides);
  return config;
}

void Config::override_with(std::span<const std::string> overrides) {
  struct Override {
    std::vector<std::string> keys;
    std::string value;
  };
  std::vector<Override> parsed;
  for (const auto& text : overrides) {
    const size_t equals = text.find('=');
    FT_CHECK(equals != std::string::npos && equals > 0,
             "command line: wanted an override section.key=value, found '{}'", text);
    Override item{{}, text.substr(equals + 1)};
    std::stringstream path(text.substr(0, equals));
    for (std::string key; std::getline(path, key, '.');) item.keys.push_back(key);
    parsed.push_back(std::move(item));
  }
  // Names first: they drop what the file said about the old choice, never what the command line says about the new one.
  std::stable_partition(parsed.begin(), parsed.end(), [](const auto& o) { return o.keys.back() == "name"; });
  for (const auto& [keys, value] : parsed) {
    ConfigNode* section = node_.get();
    std::string path;
    for (size_t i = 0; i + 1 < keys.size(); ++i) {
      path += (path.empty() ? "" : ".") + keys[i];
      auto next = config_detail::child(*section, keys[i]);
      FT_CHECK(next->kind == Kind::kMap || next->kind == Kind::kNull,
               "command line: {} is a single value ('{}'), not a section, so {} cannot be set", path,
               config_detail::to_text(*next), fmt::join(keys, "."));
      next->kind = Kind::kMap;
      if (next->file.empty()) next->file = "command line";
      section = next.get();
    }
    auto node = parse_text(value, "command line", fmt::format("{}", fmt::join(keys, ".")));
    if (keys.back() == "name") {
      const auto old = section->find("name");
      if (!old || old->scalar != node->scalar)
        std::erase_if(section->map, [](const auto& item) { return item.second->file != "command line"; });
    }
    set_child(*section, keys.back(), node);
  }
}

bool Config::empty() const { return node_->kind == Kind::kNull || (node_->kind == Kind::kMap && node_->map.empty()); }
bool Config::has(std::string_view key) const {
  const auto node = node_->find(key);
  return node && node->kind != Kind::kNull;
}
std::string Config::name(const std::string& fallback) const {
  const auto node = node_->find("name");
  if (!node || node->kind == Kind::kNull) return fallback;
  std::string value;
  config_detail::read(*node, value);
  return value;
}
void Config::set_default_name(const std::string& name) {
  if (!has("name")) {
    auto node = config_detail::write(name);
    node->path = node_->path.empty() ? "name" : node_->path + ".name";
    node_->kind = Kind::kMap;
    std::erase_if(node_->map, [](const auto& item) { return item.first == "name"; });
    node_->map.insert(node_->map.begin(), {"name", node});
  }
}
Config Config::section(const std::string& key) const { return Config(config_detail::child(*node_, key)); }

std::string Config::dump() const {
  YAML::Emitter out;
  emit(out, *node_);
  return std::string(out.c_str()) + "\n";
}

void Config::check_all_used() const {
  for (const auto& [key, value] : node_->map) {
    if (value->kind != Kind::kMap || value->map.empty() || value->used) continue;
    FT_FAIL("{}: this section is not used by this run (recipe '{}'); remove it, or choose the recipe that reads it",
            value->place(), section("recipe").name("recognition"));
  }
}

}  // namespace facetrain
