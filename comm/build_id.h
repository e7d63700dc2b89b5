// Which build this process runs: ranks of one job must run the same.
#pragma once

#include <string>

namespace facetrain {

// "0.1.0-1f0c…": the version and a hash of the bytes of the program and of the library that holds
// this function.
std::string build_id();

// Folder of the file that holds this function: libfacetrain_core.so, or the program itself.
std::string library_folder();

}  // namespace facetrain
