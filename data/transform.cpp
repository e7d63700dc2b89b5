#include "data/transform.h"

#include <set>

#include "data/views.h"

namespace facetrain {
namespace {

// A registry's resolve() sees no items of lists.
void resolve_views(const Config& views) {
  FT_CHECK(!views.node().list.empty(),
           "{}: wanted a list of {{field: .., transforms: [..]}}, found none", views.place());
  std::set<std::string> fields;
  for (const auto& item : views.node().list) {
    const auto view = Config(item).as<ViewOptions>();
    FT_CHECK(!view.field.empty(), "{}: wanted the field that the view becomes (field: view1)",
             Config(item).place());
    FT_CHECK(fields.insert(view.field).second, "{}: a second view of the field '{}'",
             Config(item).place(), view.field);
    for (const auto& inner : view.transforms.node().list)
      FT_CHECK(Config(inner).name() != "views", "{}: views inside a view", Config(inner).place());
    resolve_transforms(view.transforms);
  }
}

}  // namespace

void resolve_transforms(const Config& list) {
  for (const auto& item : list.node().list) {
    Transforms::get().resolve(Config(item));
    if (Config(item).name() == "views") resolve_views(Config(item).section("views"));
  }
}

TransformList make_transforms(const Config& list) {
  TransformList made;
  for (const auto& item : list.node().list)
    made.emplace_back(Config(item).name(), Transforms::get().create(Config(item)));
  return made;
}

}  // namespace facetrain
