// One YAML tree, parsed strictly into plain option structs.
//
// An option struct declares each field once, in a member `void fields(auto& f)`:
//
//   struct ArcFaceOptions {
//     double margin = 0.5;
//     void fields(auto& f) { f("margin", margin, range(0.0, 1.57), "additive angular margin,
//     radians"); }
//   };
//
// Reading, range checks, unknown-key errors, the resolved dump and `facetrain list` all visit that
// one list. A field of type Config is a section that is parsed later, by whoever is created from
// it; its key `name` chooses what that is. Precedence: struct default < `base:` file < file <
// command line.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/check.h"

namespace facetrain {

// What a field may hold. Shown in errors and in `facetrain list`.
struct Range {
  double low, high;
};
constexpr Range range(double low, double high) { return {low, high}; }
constexpr Range at_least(double low) { return {low, 1e300}; }
struct Choices {
  std::vector<std::string> values;
};
template <class... Names>
Choices one_of(Names... names) {
  return {{names...}};
}

// A node of the tree: what was written, and where.
struct ConfigNode {
  enum class Kind { kNull, kScalar, kMap, kList };
  Kind kind = Kind::kNull;
  std::string scalar;
  std::vector<std::pair<std::string, std::shared_ptr<ConfigNode>>> map;  // in the order of the file
  std::vector<std::shared_ptr<ConfigNode>> list;
  std::string file;  // where it was written; "command line", or empty for a default
  int line = 0;
  std::string path;   // "optimizer.lr"
  bool used = false;  // somebody parsed this section

  std::shared_ptr<ConfigNode> find(std::string_view key) const;
  std::string place() const;  // "file:line: path"
};
using ConfigNodePtr = std::shared_ptr<ConfigNode>;

// A number of steps, or of epochs that becomes steps when the data set is known: `2000` or `'2
// epochs'`.
struct Duration {
  double value = 0;
  bool epochs = false;
  // Steps, given the (fractional) steps of one epoch.
  int64_t steps(double steps_per_epoch) const;
  // As a period: whether `step` >= 1 is the first at or after a whole multiple of it. 0: never.
  bool due(int64_t step, double steps_per_epoch) const;
  std::string text() const;
};

// A number that may change during a run: `0.1`, or `{at: [0, '4 epochs'], value: [0.1, 1.0],
// interpolate: linear}` (interpolate: linear | cosine | none; before the first and after the last
// point the value is constant).
struct Scheduled {
  Scheduled(double constant = 0) : at(1), value{constant} {}  // NOLINT: a number is a schedule
  std::vector<Duration> at;
  std::vector<double> value;
  std::string interpolate = "none";
  double operator()(int64_t step, double steps_per_epoch) const;
};

namespace config_detail {
// Conversions between nodes and values; each throws with place, what was wanted and what was found.
void read(const ConfigNode& node, bool& value);
void read(const ConfigNode& node, int64_t& value);
void read(const ConfigNode& node, uint64_t& value);
void read(const ConfigNode& node, int& value);
void read(const ConfigNode& node, double& value);
void read(const ConfigNode& node, std::string& value);
void read(const ConfigNode& node, Duration& value);
void read(const ConfigNode& node, Scheduled& value);
ConfigNodePtr write(bool value);
ConfigNodePtr write(int64_t value);
ConfigNodePtr write(uint64_t value);
ConfigNodePtr write(int value);
ConfigNodePtr write(double value);
ConfigNodePtr write(const std::string& value);
ConfigNodePtr write(const Duration& value);
ConfigNodePtr write(const Scheduled& value);
template <class T>
void read(const ConfigNode& node, std::vector<T>& value) {
  value.clear();
  if (node.kind != ConfigNode::Kind::kList) {  // one value stands for a list of one
    if (node.kind != ConfigNode::Kind::kNull) read(node, value.emplace_back());
    return;
  }
  for (const auto& item : node.list) read(*item, value.emplace_back());
}
template <class T>
ConfigNodePtr write(const std::vector<T>& value) {
  auto node = std::make_shared<ConfigNode>();
  node->kind = ConfigNode::Kind::kList;
  for (const T& item : value) node->list.push_back(write(item));
  return node;
}
// The known word nearest to a mistyped one, or "" when none is near.
std::string nearest(const std::string& word, const std::vector<std::string>& known);
void check_range(const ConfigNode& node, double value, Range range);
void check_choice(const ConfigNode& node, const std::string& value, const Choices& choices);
[[noreturn]] void unknown_keys(const ConfigNode& node, const std::vector<std::string>& known);
}  // namespace config_detail

// One declared field, for `facetrain list` and --help.
struct FieldInfo {
  std::string name, fallback, allowed, meaning;
};

// A section of the tree. Copies share the tree; reading a section writes the resolved values back
// into it.
class Config {
 public:
  Config();  // an empty section
  explicit Config(ConfigNodePtr node) : node_(std::move(node)) {}

  // Reads a file with its `base:` files and applies overrides `a.b.c=value` (value is YAML).
  // Overriding `x.name` drops the other keys of x that come from files; a file that names x anew
  // drops those of its `base:`. Throws with file and line.
  static Config load(const std::filesystem::path& file,
                     std::span<const std::string> overrides = {});
  static Config parse(const std::string& yaml, const std::string& file = "<text>");
  void override_with(std::span<const std::string> overrides);
  // Sets a key of this section to a text as it is: nothing in it (a '#', a ':') is read as YAML.
  void set(const std::string& key, const std::string& text);

  bool empty() const;
  bool has(std::string_view key) const;
  // The value of `name:`, or `fallback`.
  std::string name(const std::string& fallback = "") const;
  void set_default_name(const std::string& name);
  // The section under `key`; an absent one is created empty, so that its resolved values are dumped
  // too.
  Config section(const std::string& key) const;
  // "file:line: path", for errors about this section.
  std::string place() const { return node_->place(); }
  const ConfigNode& node() const { return *node_; }

  template <class Options>
  Options as() const;

  // YAML of everything that was written or resolved.
  std::string dump() const;
  // A tree of its own: as() fills defaults in, so threads must not share one.
  Config clone() const;
  // Throws for sections that were written but that nobody parsed: they belong to something this run
  // does not use.
  void check_all_used() const;

 private:
  friend class ConfigReader;
  ConfigNodePtr node_;
};

// The visitor that fills an option struct from a section.
class ConfigReader {
 public:
  explicit ConfigReader(const Config& config) : node_(config.node_) { node_->used = true; }

  template <class T>
  void operator()(const char* name, T& value, const char*) {
    field(name, value);
  }
  template <class T>
  void operator()(const char* name, T& value, Range range, const char*) {
    const auto node =
        field(name, value);  // first: arguments of one call are evaluated in any order
    if constexpr (std::is_same_v<T, Scheduled>) {
      for (const double v : value.value) config_detail::check_range(*node, v, range);
    } else if constexpr (std::is_same_v<T, Duration>) {
      config_detail::check_range(*node, value.value, range);
    } else {
      config_detail::check_range(*node, static_cast<double>(value), range);
    }
  }
  void operator()(const char* name, std::string& value, const Choices& choices, const char*) {
    const auto node = field(name, value);
    config_detail::check_choice(*node, value, choices);
  }
  // Throws if the section has keys that no field declared. `name` is one where somebody asked
  // Config::name() for it.
  void finish() const {
    for (const auto& [key, value] : node_->map) {
      const bool chosen_by_name = key == "name" && value->used;
      if (!chosen_by_name && std::find(known_.begin(), known_.end(), key) == known_.end())
        config_detail::unknown_keys(*node_, known_);
    }
  }

 private:
  template <class T>
  ConfigNodePtr field(const char* name, T& value);
  ConfigNodePtr node_;
  std::vector<std::string> known_;
};

// The visitor that only lists the fields of an option struct with their defaults.
class FieldLister {
 public:
  template <class T>
  void operator()(const char* name, T& value, const char* meaning) {
    add(name, value, "", meaning);
  }
  template <class T>
  void operator()(const char* name, T& value, Range range, const char* meaning) {
    add(name, value,
        range.high >= 1e300 ? fmt::format(">= {:g}", range.low)
                            : fmt::format("{:g} ... {:g}", range.low, range.high),
        meaning);
  }
  void operator()(const char* name, std::string& value, const Choices& choices,
                  const char* meaning) {
    add(name, value, fmt::format("{}", fmt::join(choices.values, " | ")), meaning);
  }
  std::vector<FieldInfo> fields;

 private:
  template <class T>
  void add(const char* name, T& value, std::string allowed, const char* meaning);
};

template <class Options>
std::vector<FieldInfo> list_fields() {
  Options options{};
  FieldLister lister;
  options.fields(lister);
  return std::move(lister.fields);
}

// ---- templates
// -------------------------------------------------------------------------------------------------------

namespace config_detail {
template <class T>
concept HasFields = requires(T t, ConfigReader reader) {
  t.fields(reader);
};
ConfigNodePtr child(ConfigNode& parent, const std::string& key);  // created as null when absent
std::string to_text(const ConfigNode& node);                      // one line of YAML
}  // namespace config_detail

template <class Options>
Options Config::as() const {
  Options options{};
  FT_CHECK(node_->kind == ConfigNode::Kind::kMap || node_->kind == ConfigNode::Kind::kNull,
           "{}: wanted a section (key: value lines), found '{}'", place(),
           config_detail::to_text(*node_));
  node_->kind = ConfigNode::Kind::kMap;
  ConfigReader reader(*this);
  options.fields(reader);
  reader.finish();
  return options;
}

template <class T>
ConfigNodePtr ConfigReader::field(const char* name, T& value) {
  known_.emplace_back(name);
  const bool written = node_->find(name) && node_->find(name)->kind != ConfigNode::Kind::kNull;
  ConfigNodePtr node = config_detail::child(*node_, name);
  if constexpr (std::is_same_v<T, Config>) {
    value = Config(node);
  } else if constexpr (config_detail::HasFields<T>) {
    value = Config(node).as<T>();
  } else {
    if (written) config_detail::read(*node, value);
    const ConfigNodePtr resolved = config_detail::write(value);
    node->kind = resolved->kind;
    node->scalar = resolved->scalar;
    node->list = resolved->list;
    node->map = resolved->map;
    node->used = true;
  }
  return node;
}

template <class T>
void FieldLister::add(const char* name, T& value, std::string allowed, const char* meaning) {
  std::string fallback;
  if constexpr (!std::is_same_v<T, Config> && !config_detail::HasFields<T>)
    fallback = config_detail::to_text(*config_detail::write(value));
  fields.push_back({name, fallback, std::move(allowed), meaning});
}

}  // namespace facetrain
