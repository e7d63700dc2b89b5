// The names that a .pth file may ask for. Nothing behind a name is ever run; the list exists so
// that a file which wants more than weights is refused by what it wants, instead of being read in
// part.
#pragma once

#include <c10/core/ScalarType.h>

#include <optional>
#include <string>

namespace facetrain {

// Throws for every name that is neither needed for dense tensors nor a plain value (numbers, paths,
// configuration containers), saying what it is and that nothing was executed. `file` begins it.
void check_global(const std::string& global, const std::string& file);

// dict classes of Python's library.
bool is_dict_class(const std::string& global);
// Element type of "torch.FloatStorage" and its siblings; bytes for untyped ones.
std::optional<at::ScalarType> storage_dtype(const std::string& global);
// Of "torch.float32" and its siblings.
std::optional<at::ScalarType> tensor_dtype(const std::string& global);

}  // namespace facetrain
