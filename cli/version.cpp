#include "cli/version.h"

#include "commit.h"  // written by cmake/commit.cmake at every build

namespace facetrain {

std::string program_version() {
  const std::string commit = FACETRAIN_COMMIT;
  return commit.empty() ? FACETRAIN_VERSION : FACETRAIN_VERSION ", commit " + commit;
}

}  // namespace facetrain
