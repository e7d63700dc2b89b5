// A name in YAML becomes an object; one line in the object's own file:
//
//   namespace { const bool registered = Margins::get().add<CosFace, CosFaceOptions>("cosface",
//   "cosine margin (Wang 2018)"); }
//
// The product class says what it is in `static constexpr const char* kKind = "margin"`. T is made
// by T(options, context...).
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/config.h"

namespace facetrain {

template <class Product, class... Context>
class Registry {
 public:
  struct Entry {
    std::string name, meaning;
    std::vector<FieldInfo> fields;
    std::vector<std::string>
        sections;  // T::kSections: other root sections that T reads, if it says so
    std::function<std::shared_ptr<Product>(const Config&, Context...)> create;
    std::function<void(const Config&)>
        resolve;  // checks a section and fills in its defaults, makes nothing
  };

  static Registry& get() {
    static Registry registry;
    return registry;
  }

  // A second add of a name is an error. Returns true, to initialise a constant at namespace scope.
  template <class T, class Options>
  bool add(const std::string& name, const std::string& meaning) {
    for (const auto& entry : entries_)
      FT_CHECK(entry.name != name, "two {}s register the name '{}'", Product::kKind, name);
    std::vector<std::string> sections;
    if constexpr (requires { T::kSections; })
      sections.assign(std::begin(T::kSections), std::end(T::kSections));
    entries_.push_back({name, meaning, list_fields<Options>(), std::move(sections),
                        [](const Config& section, Context... context) -> std::shared_ptr<Product> {
                          return std::make_shared<T>(section.template as<Options>(), context...);
                        },
                        [](const Config& section) { section.template as<Options>(); }});
    std::sort(entries_.begin(), entries_.end(),
              [](const auto& a, const auto& b) { return a.name < b.name; });
    return true;
  }

  // The object that the section's `name:` asks for; unknown names throw with the known ones.
  std::shared_ptr<Product> create(const Config& section, Context... context) const {
    return find(section).create(section, context...);
  }
  void resolve(const Config& section) const { find(section).resolve(section); }
  const std::vector<Entry>& entries() const { return entries_; }
  // The entry that the section's `name:` asks for.
  const Entry& entry(const Config& section) const { return find(section); }
  std::vector<std::string> names() const {
    std::vector<std::string> all;
    for (const auto& entry : entries_) all.push_back(entry.name);
    return all;
  }

 private:
  const Entry& find(const Config& section) const {
    const std::string name = section.name();
    for (const auto& entry : entries_)
      if (entry.name == name) return entry;
    std::string guess = config_detail::nearest(name, names());
    if constexpr (requires { Product::our_name(name); })
      if (const std::string ours = Product::our_name(name); !ours.empty()) guess = ours;
    const auto written = section.node().find("name");
    FT_FAIL("{}: {} '{}'{}; known: {}", name.empty() ? section.place() : written->place(),
            name.empty() ? fmt::format("wanted a name of a {}, found", Product::kKind)
                         : fmt::format("unknown {}", Product::kKind),
            name, guess.empty() ? "" : fmt::format(" (did you mean '{}'?)", guess),
            fmt::join(names(), ", "));
  }
  std::vector<Entry> entries_;
};

}  // namespace facetrain
