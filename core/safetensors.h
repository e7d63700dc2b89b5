// safetensors files: an 8-byte little-endian header length, a JSON header, raw little-endian bytes.
//
// Written whole under a temporary name, fsynced and renamed, so a file with its final name is
// complete. Readable by the `safetensors` Python package. The header is padded with spaces so that
// data starts at a multiple of 64 bytes.
#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/binary_file.h"

namespace facetrain {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;
using Metadata = std::map<std::string, std::string>;

// Writes tensors (any device, any strides) in the given order. Throws with the file's name on any
// failure (disk full, read-only, unwritable folder) and leaves nothing behind.
void save_safetensors(const std::filesystem::path& file, const NamedTensors& tensors,
                      const Metadata& metadata = {});

struct TensorInfo {
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  uint64_t begin, end;  // bytes in the file
};

// An open file. The header is checked against the file's length (truncated, overlapping or
// out-of-range tensors, foreign files and unknown types are errors that name the file).
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& file);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }
  const Metadata& metadata() const { return metadata_; }
  bool has(const std::string& name) const { return tensors_.contains(name); }
  // A copy on the CPU. Throws when the name is absent, listing the nearest.
  at::Tensor read(const std::string& name) const;
  // Rows [begin, end) of dimension 0 only; reads no other byte.
  at::Tensor read_rows(const std::string& name, int64_t begin, int64_t end) const;

 private:
  const TensorInfo& info(const std::string& name) const;
  BinaryFile file_;
  std::map<std::string, TensorInfo> tensors_;
  Metadata metadata_;
};

}  // namespace facetrain
