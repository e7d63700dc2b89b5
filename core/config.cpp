#include "core/config.h"

#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <fstream>
#include <sstream>

#include "core/log.h"

namespace facetrain {
namespace {

using Kind = ConfigNode::Kind;

std::string join_path(const std::string& path, const std::string& key) {
  return path.empty() ? key : path + "." + key;
}

// Builds our tree from YAML's. A file cannot make it large or deep: aliases expand, and may even
// hold themselves.
class TreeBuilder {
 public:
  explicit TreeBuilder(const std::string& file) : file_(file) {}

  ConfigNodePtr build(const YAML::Node& yaml, const std::string& path, int line) {
    line = yaml.Mark().line >= 0 ? yaml.Mark().line + 1 : line;
    const Level level(*this, line);
    auto node = std::make_shared<ConfigNode>();
    node->file = file_;
    node->line = line;
    node->path = path;
    if (yaml.IsScalar()) {
      node->kind = Kind::kScalar;
      node->scalar = yaml.Scalar();
    } else if (yaml.IsSequence()) {
      node->kind = Kind::kList;
      for (const auto& item : yaml)
        node->list.push_back(build(item, fmt::format("{}[{}]", path, node->list.size()), line));
    } else if (yaml.IsMap()) {
      node->kind = Kind::kMap;
      for (const auto& item : yaml) add_key(*node, item.first, item.second);
    }
    return node;
  }

 private:
  static constexpr int kMaxDepth = 32, kMaxNodes = 100'000;

  struct Level {
    Level(TreeBuilder& tree, int line) : builder(tree) {
      FT_CHECK(++builder.depth_ <= kMaxDepth && ++builder.nodes_ <= kMaxNodes,
               "{}:{}: a configuration has at most {} levels and {} values, this one has more",
               builder.file_, line, kMaxDepth, kMaxNodes);
    }
    ~Level() { --builder.depth_; }
    TreeBuilder& builder;
  };

  void add_key(ConfigNode& node, const YAML::Node& yaml_key, const YAML::Node& yaml_value) {
    const int line = yaml_key.Mark().line + 1;
    FT_CHECK(yaml_key.IsScalar(), "{}:{}: a key must be one word", file_, line);
    const std::string key = yaml_key.Scalar();
    FT_CHECK(!node.find(key), "{}:{}: key '{}' stands twice in one section: keep one", file_, line,
             key);
    auto value = build(yaml_value, join_path(node.path, key), line);
    value->line = line;  // where a reader looks for the key
    node.map.emplace_back(key, std::move(value));
  }

  const std::string& file_;
  int depth_ = 0, nodes_ = 0;
};

// Listens to a parse without keeping anything: YAML::Load() silently drops what follows the first
// document.
class Discard : public YAML::EventHandler {
  using Mark = YAML::Mark;
  using Style = YAML::EmitterStyle::value;
  void OnDocumentStart(const Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const Mark&, YAML::anchor_t) override {}
  void OnAlias(const Mark&, YAML::anchor_t) override {}
  void OnScalar(const Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const Mark&, const std::string&, YAML::anchor_t, Style) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const Mark&, const std::string&, YAML::anchor_t, Style) override {}
  void OnMapEnd() override {}
};

bool has_one_document(const std::string& text) {
  std::stringstream stream(text);
  YAML::Parser parser(stream);
  Discard discard;
  return !parser.HandleNextDocument(discard) || !parser.HandleNextDocument(discard);
}

ConfigNodePtr parse_text(const std::string& text, const std::string& file,
                         const std::string& path) {
  try {
    FT_CHECK(
        has_one_document(text),
        "{}: wanted one YAML document, found more behind it: remove '---' lines and stray text",
        file);
    return TreeBuilder(file).build(YAML::Load(text), path, 1);
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

// True when `child` gives a section another name than `base` has: the other keys of base belonged
// to the old choice.
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
  FT_CHECK(in && !std::filesystem::is_directory(file),
           "{}: cannot read this configuration file; check the path", file.string());
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

// Sections without values are left out of a dump.
bool has_values(const ConfigNode& node) {
  if (node.kind != Kind::kMap) return node.kind != Kind::kNull;
  return std::any_of(node.map.begin(), node.map.end(),
                     [](const auto& item) { return has_values(*item.second); });
}

void emit(YAML::Emitter& out, const ConfigNode& node) {
  switch (node.kind) {
    case Kind::kNull:
      out << YAML::Null;
      break;
    case Kind::kScalar:
      out << node.scalar;
      break;
    case Kind::kList:
      out << YAML::Flow << YAML::BeginSeq;
      for (const auto& item : node.list) emit(out, *item);
      out << YAML::EndSeq;
      break;
    case Kind::kMap:
      out << YAML::BeginMap;
      for (const auto& [key, value] : node.map) {
        if (!has_values(*value)) continue;
        out << YAML::Key << key << YAML::Value;
        emit(out, *value);
      }
      out << YAML::EndMap;
      break;
  }
}

// One `a.b.c=value` of the command line.
struct Override {
  std::vector<std::string> keys;
  ConfigNodePtr value;
};

Override parse_override(const std::string& text) {
  const size_t equals = text.find('=');
  FT_CHECK(equals != std::string::npos && equals > 0,
           "command line: wanted an override section.key=value, found '{}'", text);
  const std::string path = text.substr(0, equals);
  Override item;
  std::stringstream words(path + ".");
  for (std::string key; std::getline(words, key, '.');) {
    FT_CHECK(!key.empty(), "command line: '{}' has an empty word between its dots", path);
    item.keys.push_back(key);
  }
  FT_CHECK(text.find_first_not_of(" \t\r\n", equals + 1) != std::string::npos,
           "command line: {}: wanted a value after '=', found nothing (an empty text is written "
           "\"\")",
           path);
  item.value = parse_text(text.substr(equals + 1), "command line", path);
  return item;
}

// The section that holds the last of `keys`; made where it does not exist.
ConfigNode& open_section(ConfigNode& root, const std::vector<std::string>& keys) {
  ConfigNode* section = &root;
  for (size_t i = 0; i + 1 < keys.size(); ++i) {
    const auto next = config_detail::child(*section, keys[i]);
    FT_CHECK(next->kind == Kind::kMap || next->kind == Kind::kNull,
             "command line: {} is a single value ('{}'), not a section, so {} cannot be set",
             next->path, config_detail::to_text(*next), fmt::join(keys, "."));
    next->kind = Kind::kMap;
    if (next->file.empty()) next->file = "command line";
    section = next.get();
  }
  return *section;
}

// Drops what files say about the section's choice, and tells so: on standard error, for what prints
// a configuration prints nothing else.
void drop_choice(ConfigNode& section, const Override& item) {
  std::vector<std::string> dropped;
  std::string place;
  for (const auto& [key, value] : section.map) {
    if (key == "name" || value->file == "command line" || value->kind == Kind::kNull) continue;
    if (dropped.empty() && !value->file.empty())
      place = fmt::format(" of {}:{}", value->file, value->line);
    dropped.push_back(key);
  }
  std::erase_if(section.map, [](const auto& e) { return e.second->file != "command line"; });
  if (dropped.empty() || log_rank() != 0) return;
  log_warn("command line: {}={}: {}{} no longer appl{}", fmt::join(item.keys, "."),
           config_detail::to_text(*item.value), fmt::join(dropped, ", "), place,
           dropped.size() == 1 ? "ies" : "y");
}

void apply(ConfigNode& root, const Override& item) {
  ConfigNode& section = open_section(root, item.keys);
  if (item.keys.size() > 1 && item.keys.back() == "name") drop_choice(section, item);
  set_child(section, item.keys.back(), item.value);
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
  const bool has_line = line > 0 && file != "command line";
  return has_line ? fmt::format("{}:{}: {}", file, line, where)
                  : fmt::format("{}: {}", file, where);
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
  node->path = join_path(parent.path, key);
  parent.map.emplace_back(key, node);
  return node;
}

}  // namespace config_detail

Config::Config() : node_(std::make_shared<ConfigNode>()) { node_->kind = Kind::kMap; }

Config Config::clone() const {
  const auto copy = [](const auto& self, const ConfigNode& node) -> ConfigNodePtr {
    auto own = std::make_shared<ConfigNode>(node);
    for (auto& item : own->map) item.second = self(self, *item.second);
    for (auto& item : own->list) item = self(self, *item);
    return own;
  };
  return Config(copy(copy, *node_));
}

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
  std::vector<Override> parsed;
  for (const auto& text : overrides) parsed.push_back(parse_override(text));
  // Names first: they drop what the file says about its choice, never what the command line says.
  for (const bool names : {true, false})
    for (const auto& item : parsed)
      if ((item.keys.back() == "name") == names) apply(*node_, item);
}

void Config::set(const std::string& key, const std::string& text) {
  auto node = config_detail::write(text);
  node->file = "command line";
  node->path = join_path(node_->path, key);
  set_child(*node_, key, std::move(node));
}

bool Config::empty() const {
  return node_->kind == Kind::kNull || (node_->kind == Kind::kMap && node_->map.empty());
}

bool Config::has(std::string_view key) const {
  const auto node = node_->find(key);
  return node && node->kind != Kind::kNull;
}

std::string Config::name(const std::string& fallback) const {
  const auto node = node_->find("name");
  if (!node || node->kind == Kind::kNull) return fallback;
  node->used = true;
  std::string value;
  config_detail::read(*node, value);
  return value;
}

void Config::set_default_name(const std::string& name) {
  if (has("name")) return;
  auto node = config_detail::write(name);
  node->path = join_path(node_->path, "name");
  node_->kind = Kind::kMap;
  std::erase_if(node_->map, [](const auto& item) { return item.first == "name"; });
  node_->map.insert(node_->map.begin(), {"name", node});
}

Config Config::section(const std::string& key) const {
  return Config(config_detail::child(*node_, key));
}

std::string Config::dump() const {
  YAML::Emitter out;
  emit(out, *node_);
  return std::string(out.c_str()) + "\n";
}

void Config::check_all_used() const {
  const auto recipe = node_->find("recipe");
  const std::string chosen = recipe ? Config(recipe).name("recognition") : "recognition";
  for (const auto& [key, value] : node_->map) {
    if (value->kind != Kind::kMap || value->map.empty() || value->used) continue;
    FT_FAIL(
        "{}: this section is not used by this run (recipe '{}'); remove it, or choose the "
        "recipe that reads it",
        value->place(), chosen);
  }
}

}  // namespace facetrain
