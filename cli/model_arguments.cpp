#include "cli/model_arguments.h"

#include <algorithm>
#include <cctype>

namespace facetrain {
namespace {

// "model.name=iresnet18", but no path that happens to hold an equals sign.
bool is_override(const std::string& word) {
  const auto equals = word.find('=');
  return equals != std::string::npos && equals > 0 &&
         std::all_of(word.begin(), word.begin() + static_cast<std::ptrdiff_t>(equals),
                     [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '.'; });
}

}  // namespace

void ModelArguments::add(CLI::App& command, const std::string& meaning, bool takes_path) {
  command_ = command.get_name();
  takes_path_ = takes_path;
  command.add_option("model", words, meaning + "; then overrides section.key=value")
      ->type_name(takes_path ? "MODEL PATH [section.key=value ...]"
                             : "MODEL [section.key=value ...]")
      ->required();
}

void ModelArguments::split() {
  std::vector<std::string> plain;
  overrides.clear();
  for (const std::string& word : words) (is_override(word) ? overrides : plain).push_back(word);
  const size_t wanted = takes_path_ ? 2 : 1;
  if (plain.size() != wanted)
    throw CLI::ValidationError(
        command_, takes_path_
                      ? "wanted MODEL and PATH, found " + std::to_string(plain.size()) + " words"
                      : "wanted one MODEL, found " + std::to_string(plain.size()) + " words");
  what = plain[0];
  if (takes_path_) path = plain[1];
}

}  // namespace facetrain
