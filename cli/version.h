// What the program calls itself.
#pragma once

#include <string>

namespace facetrain {

// "0.1.0, commit 1f0c2ab", with "+" behind it where the tree had changes; without commit where it
// was built outside of a git checkout.
std::string program_version();

}  // namespace facetrain
