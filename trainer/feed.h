// The loaders of a run: the main stream and the further named ones of a recipe, stepped together.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/loader.h"

namespace facetrain {

class Feed {
 public:
  explicit Feed(std::unique_ptr<Loader> main) : main_(std::move(main)) {}
  void add_stream(std::string name, std::unique_ptr<Loader> loader) {
    streams_.emplace_back(std::move(name), std::move(loader));
  }

  // This rank's micro-batches of the next step; micro-batch i carries micro-batch i of every
  // stream.
  std::vector<Batch> next() {
    auto batches = main_->next();
    for (auto& [name, loader] : streams_) {
      auto others = loader->next();
      for (size_t i = 0; i < batches.size(); ++i)
        batches[i].streams.emplace(name, std::move(others[i]));
    }
    return batches;
  }
  void seek(int64_t step) {
    main_->seek(step);
    for (auto& [name, loader] : streams_) loader->seek(step);
  }
  // Of all streams.
  LoaderStatus status() {
    LoaderStatus sum = main_->status();
    for (auto& [name, loader] : streams_) {
      const LoaderStatus one = loader->status();
      sum.skipped += one.skipped;
      sum.wait_seconds += one.wait_seconds;
    }
    return sum;
  }

 private:
  std::unique_ptr<Loader> main_;
  std::vector<std::pair<std::string, std::unique_ptr<Loader>>> streams_;
};

}  // namespace facetrain
