// What a command line gets wrong, in the words of somebody who wants to mend it.
#pragma once

#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace facetrain {

// Of a command line that `app` could not parse: an unknown subcommand or option, with what may have
// been meant. Empty where this is not what is wrong. `words`: without the program's name.
std::string usage_problem(const CLI::App& app, const std::vector<std::string>& words);

// The setting that an option with this name stands for ("epochs" -> "trainer.epochs"), by the
// declarations of all sections; empty when there is none.
std::string setting_named(const std::string& option);

}  // namespace facetrain
