#include "eval/embedder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "comm/collectives.h"
#include "core/check.h"
#include "core/log.h"

namespace facetrain {
namespace {

// Images [begin, end) of the source, [B, H, W, 3].
at::Tensor read_images(const Source& source, int64_t begin, int64_t end) {
  std::vector<at::Tensor> images;
  for (int64_t index = begin; index < end; ++index) {
    const at::Tensor image = source.read(index).fields.at("image");
    FT_CHECK(images.empty() || image.sizes() == images.front().sizes(),
             "{}: this image is {} x {}, others of the set are {} x {}; set data.size and "
             "data.fit=resize",
             source.describe(index), image.size(1), image.size(0), images.front().size(1),
             images.front().size(0));
    images.push_back(image);
  }
  return at::stack(images);
}

at::Tensor embed_batch(const at::Tensor& images, const EmbedFunction& forward, bool flip) {
  at::Tensor rows = forward(images).to(at::kCPU, at::kFloat);
  if (flip) rows = rows + forward(images.flip(2)).to(at::kCPU, at::kFloat);
  FT_CHECK(rows.dim() == 2 && rows.size(0) == images.size(0),
           "the network gave {} for {} images; wanted [B, D]", fmt::join(rows.sizes(), " x "),
           images.size(0));
  return rows;
}

// Says how far rank 0 is, whose share stands for the others': a line that moves on a terminal,
// plain ones in a log.
class EmbedProgress {
 public:
  EmbedProgress(int64_t images, const EmbedOptions& options, int ranks)
      : images_(images), every_(log_is_terminal() ? 0.1 : options.tell_every), ranks_(ranks) {}
  ~EmbedProgress() {
    if (shown_) log_progress("");
  }
  void add(int64_t images) {
    done_ += images;
    const auto now = Clock::now();
    if (done_ == images_ || std::chrono::duration<double>(now - told_).count() < every_) return;
    told_ = now;
    const std::string text = fmt::format("embedding: {} of {} images{}", done_, images_,
                                         ranks_ > 1 ? fmt::format(" of rank 0 of {}", ranks_) : "");
    shown_ = log_is_terminal();
    if (shown_)
      log_progress(text);
    else
      log_info("{}", text);
  }

 private:
  using Clock = std::chrono::steady_clock;
  int64_t images_, done_ = 0;
  double every_;
  int ranks_;
  bool shown_ = false;
  Clock::time_point told_ = Clock::now();
};

}  // namespace

at::Tensor embed_source(const Source& source, const EmbedFunction& forward,
                        const EmbedOptions& options, Communicator& comm) {
  const at::NoGradGuard no_grad;
  const int64_t count = source.size();
  FT_CHECK(count > 0, "{}: no images to embed", source.name());
  const int64_t batches = (count + options.batch - 1) / options.batch;
  const Slice mine = slice_of(batches, comm.rank(), comm.size());
  std::vector<at::Tensor> parts;
  const auto row = [&](int64_t batch) { return std::min(batch * options.batch, count); };
  EmbedProgress progress(row(mine.end) - row(mine.begin), options, comm.size());
  for (int64_t batch = mine.begin; batch < mine.end; ++batch) {
    const int64_t begin = row(batch), end = row(batch + 1);
    parts.push_back(embed_batch(read_images(source, begin, end), forward, options.flip));
    progress.add(end - begin);
  }
  // A rank without a batch learns the embedding's size from the others.
  at::Tensor dim = at::full({1}, parts.empty() ? 0 : parts.front().size(1), at::kLong);
  comm.all_reduce(dim, ReduceOp::kMax).wait();
  const at::Tensor local =
      parts.empty() ? at::empty({0, dim.item<int64_t>()}, at::kFloat) : at::cat(parts);
  return gather_rows_detached(local, gather_counts(local.size(0), comm), comm);
}

}  // namespace facetrain
