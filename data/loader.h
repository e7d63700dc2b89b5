// Batches on the device, in order, whatever the workers do. The state of the loader is one integer:
// the step.
//
// The micro-batches of one optimizer step cover positions [step * n, (step + 1) * n) of the stream,
// n = global batch; micro-batch i of k holds rows [n i / k, n (i + 1) / k), and rank r of W the
// r-th part of each (slice rule of DESIGN 3).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <memory>
#include <vector>

#include "data/batch.h"
#include "data/sampler.h"
#include "data/source.h"
#include "data/transform.h"

namespace facetrain {

struct LoaderOptions {
  int64_t batch_size = 0;         // global, of one optimizer step
  int64_t accumulate = 1;         // micro-batches it is cut into
  int64_t workers = 1;            // decoding threads of this rank
  int64_t prefetch = 2;           // steps decoded ahead
  std::string corrupt = "error";  // error | skip: what an unreadable sample does
  uint64_t seed = 0;
  int64_t rank = 0, size = 1;  // data/ never sees a communicator
  c10::Device device = c10::kCPU;
};

struct LoaderStatus {
  int64_t skipped = 0;      // corrupt samples replaced so far on this rank (policy skip)
  double wait_seconds = 0;  // time next() blocked since the last call of status()
};

class Loader {
 public:
  Loader(std::vector<std::shared_ptr<const Source>> sets, std::shared_ptr<const Sampler> sampler,
         TransformList transforms, const LoaderOptions& options);
  ~Loader();
  // This rank's micro-batches of the next step. Blocks. Rethrows a worker's error (with set, shard
  // and sample).
  std::vector<Batch> next();
  // The next call of next() gives this step. O(1): resume.
  void seek(int64_t step);
  LoaderStatus status();

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// Images [B, H, W, 3] uint8 -> [B, 3, H, W] floats of `dtype`, channels_last strides: (x - mean) /
// deviation a channel.
struct Normalization {
  std::vector<double> mean{127.5, 127.5, 127.5}, deviation{127.5, 127.5, 127.5};
  // "face" | "imagenet" | "m m m d d d" as the configuration writes it: {mean: [..], deviation:
  // [..]} in 0 ... 255 units.
  static Normalization parse(const Config& section);
};
at::Tensor normalise(const at::Tensor& images, const Normalization& normalization,
                     at::ScalarType dtype);

}  // namespace facetrain
