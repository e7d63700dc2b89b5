// What travels from the data to a recipe: samples by field name, collated into batches.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

#include "core/check.h"

namespace facetrain {

// One sample on its way through the transforms. Fields: "image" [H, W, 3] uint8, "identity" []
// int64, "landmarks5" [5, 2] float ... whatever columns the set has. A transform may add fields
// (several views of several sizes).
struct Sample {
  std::map<std::string, at::Tensor> fields;
  int64_t index = 0;     // of the source
  int64_t position = 0;  // in the global stream: with the seed, the key of all its randomness
};

// This rank's rows of one micro-batch, on the device. Images are uint8 [B, H, W, 3]; `normalise`
// makes floats of them.
struct Batch {
  std::map<std::string, at::Tensor> fields;
  at::Tensor position;                   // [B] int64
  int64_t rows = 0;                      // of this rank
  int64_t global_rows = 0;               // of all ranks
  std::map<std::string, Batch> streams;  // further named streams, stepped together with this one

  const at::Tensor& operator[](const std::string& name) const {
    const auto found = fields.find(name);
    FT_CHECK(
        found != fields.end(),
        "the batch has no field '{}': the data set lacks that column; pack it with one that has it",
        name);
    return found->second;
  }
  bool has(const std::string& name) const { return fields.contains(name); }
};

}  // namespace facetrain
