// Embeddings as files: NumPy's .npy, and HDF5 with `embeddings` [N, D], `names` [N]
// and `identities` [N].
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <string>
#include <vector>

namespace facetrain {

struct Embeddings {
  at::Tensor rows;                           // [N, D] float32 on the CPU
  std::vector<std::string> names;            // N, or empty (.npy has none)
  std::vector<std::string> identities = {};  // N, or empty (.npy has none): who each row shows
};

// By extension: .npy (versions 1 to 3, little-endian float32 in C order), .h5 / .hdf5. Throws with
// the file's name and what was found for anything else.
Embeddings read_embeddings(const std::filesystem::path& file);

// By extension, complete or absent: written under a temporary name and renamed. Names and
// identities are kept in HDF5 only.
void write_embeddings(const std::filesystem::path& file, const Embeddings& embeddings);

// Whether the extension is one of those above.
bool is_embeddings_file(const std::filesystem::path& file);

}  // namespace facetrain
