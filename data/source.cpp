#include "data/source.h"

#include <algorithm>

#include "data/file_list.h"

namespace facetrain {
namespace {

// What stands before the first colon, where that is a source's name.
std::string prefix_of(const std::string& where) {
  const std::string prefix = where.substr(0, where.find(':'));
  if (prefix.size() == where.size()) return "";
  const auto known = Sources::get().names();
  return std::find(known.begin(), known.end(), prefix) != known.end() ? prefix : "";
}

}  // namespace

std::shared_ptr<const Source> open_source(const std::string& where, const ImageOptions& options) {
  FT_CHECK(!where.empty(), "wanted the path of a data set, found nothing: set data.train");
  const std::string prefix = prefix_of(where);
  FT_CHECK(!prefix.empty() || !is_image(where) || !std::filesystem::is_regular_file(where),
           "'{}' is a picture: give its folder, or list:FILE", where);
  auto node = std::make_shared<ConfigNode>();
  node->kind = ConfigNode::Kind::kMap;
  node->path = where;
  node->map.emplace_back("name", config_detail::write(prefix.empty() ? "shards" : prefix));
  node->map.emplace_back(
      "path", config_detail::write(prefix.empty() ? where : where.substr(prefix.size() + 1)));
  return Sources::get().create(Config(node), options);
}

std::string training_error(const Error& error) {
  const std::string text = error.what();
  const bool of_its_size = text.find("data.fit") != std::string::npos;  // the picture is whole
  return of_its_size ? text : text + "; remove it, or set data.corrupt=skip";
}

IdentityCounts count_identities(const Source& source) {
  IdentityCounts counts;
  counts.images.assign(static_cast<size_t>(source.identities()), 0);
  for (int64_t i = 0; i < source.size(); ++i) {
    const int64_t identity = source.identity(i);
    if (identity < 0)
      ++counts.unlabelled;
    else
      ++counts.images[static_cast<size_t>(identity)];
  }
  std::vector<int64_t> sorted;
  for (size_t i = 0; i < counts.images.size(); ++i) {
    if (counts.images[i] == 0)
      counts.gaps.push_back(static_cast<int64_t>(i));
    else
      sorted.push_back(counts.images[i]);
    counts.single += counts.images[i] == 1;
  }
  if (sorted.empty()) return counts;
  std::sort(sorted.begin(), sorted.end());
  counts.smallest = sorted.front();
  counts.median = sorted[sorted.size() / 2];
  counts.largest = sorted.back();
  return counts;
}

std::string list_some(std::span<const int64_t> first, int64_t in_all) {
  first = first.first(std::min<size_t>(first.size(), 10));
  const std::string text = fmt::format("{}", fmt::join(first, ", "));
  return in_all <= std::ssize(first) ? text : fmt::format("{} ... ({} in all)", text, in_all);
}

}  // namespace facetrain
