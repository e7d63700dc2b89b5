// The samplers `shuffle`, `sequential` and `balanced`.
//
// The stream has no end: an epoch is epoch_size() positions, a batch may straddle two epochs, so
// nothing is dropped and nothing padded.
#include "data/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace facetrain {
namespace {

// Positions of one stream dealt out to several sets with given shares: a pure function of the
// position.
//
// Set 0 takes position p when floor((p + 1) s) > floor(p s), s its share of the stream; what it
// leaves, numbered anew, is dealt to the other sets in the same way. After any p positions set 0
// has had floor(p s): shares are exact in the long run and never off by more than one sample a set.
// Shares are multiples of 2^-32, so that the arithmetic is exact.
class Deal {
 public:
  explicit Deal(const std::vector<double>& weights) {
    double rest = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (const double weight : weights) {
      share_.push_back(static_cast<uint64_t>(std::llround(weight / rest * 0x1.0p32)));
      rest -= weight;
    }
    share_.back() = uint64_t{1} << 32;
  }
  // The set, and how many samples of it came before.
  std::pair<int64_t, int64_t> operator()(int64_t position) const {
    auto left = static_cast<unsigned __int128>(position);
    for (size_t set = 0;; ++set) {
      const auto before = left * share_[set] >> 32, after = (left + 1) * share_[set] >> 32;
      if (after > before) return {static_cast<int64_t>(set), static_cast<int64_t>(before)};
      left -= before;
    }
  }

 private:
  std::vector<uint64_t> share_;
};

// Joined sets one after the other, or dealt by weights; the order within them is the derived
// class's.
class JoinedSampler : public Sampler {
 public:
  explicit JoinedSampler(const SamplerInput& input) : seed_(input.seed) {
    FT_CHECK(!input.sets.empty(), "the sampler wants at least one data set");
    for (const auto& set : input.sets) {
      first_.push_back(total_);
      sizes_.push_back(set->size());
      total_ += set->size();
    }
    check_weights(input);
    FT_CHECK(input.batch_size >= 1 && input.batch_size <= total_,
             "wanted data.batch_size from 1 to the {} samples of the data, found {}: lower "
             "data.batch_size or add data",
             total_, input.batch_size);
  }
  int64_t epoch_size() const override { return total_; }
  Draw at(int64_t position) const override { return draw(position, 0); }
  Draw replacement(int64_t position, int64_t attempt) const override {
    return draw(position, attempt);
  }

 protected:
  // A bijection of 0 ... size - 1 for each (set, epoch); set -1: all sets as one.
  virtual int64_t order(int64_t set, int64_t epoch, int64_t size, int64_t offset) const = 0;
  uint64_t seed_;

 private:
  void check_weights(const SamplerInput& input) {
    const auto& weights = input.weights;
    if (weights.empty()) return;
    FT_CHECK(weights.size() == input.sets.size(), "wanted {} weights, one a data set, found {}",
             input.sets.size(), weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      FT_CHECK(std::isfinite(weights[i]) && weights[i] > 0,
               "data set '{}': wanted a weight above 0, found {}", input.sets[i]->name(),
               weights[i]);
    }
    deal_.emplace_back(weights);
  }
  Draw draw(int64_t position, int64_t attempt) const {
    if (!deal_.empty()) {
      const auto [set, ordinal] = deal_.front()(position);
      const int64_t size = sizes_[static_cast<size_t>(set)], epoch = ordinal / size;
      return {set, order(set, epoch, size, (ordinal % size + attempt) % size)};
    }
    const int64_t epoch = position / total_;
    const int64_t index = order(-1, epoch, total_, (position % total_ + attempt) % total_);
    const auto after = std::upper_bound(first_.begin(), first_.end(), index);
    const int64_t set = after - first_.begin() - 1;
    return {set, index - first_[static_cast<size_t>(set)]};
  }

  std::vector<int64_t> first_, sizes_;
  int64_t total_ = 0;
  std::vector<Deal> deal_;  // none or one
};

struct NoOptions {
  void fields(auto&) {}
};

class ShuffleSampler final : public JoinedSampler {
 public:
  ShuffleSampler(const NoOptions&, const SamplerInput& input) : JoinedSampler(input) {}

 protected:
  int64_t order(int64_t set, int64_t epoch, int64_t size, int64_t offset) const override {
    return Permutation(size, random_key(seed_, name_key("shuffle"), set, epoch))(offset);
  }
};

class SequentialSampler final : public JoinedSampler {
 public:
  SequentialSampler(const NoOptions&, const SamplerInput& input) : JoinedSampler(input) {}

 protected:
  int64_t order(int64_t, int64_t, int64_t, int64_t offset) const override { return offset; }
};

struct BalancedOptions {
  int64_t identities = 0;
  int64_t images = 4;
  void fields(auto& f) {
    f("identities", identities, at_least(0), "P: identities of each batch; 0: batch_size / images");
    f("images", images, at_least(1), "K: images of each identity in a batch");
  }
};

// P x K: each batch holds `identities` different identities with `images` images each, those of one
// identity together.
//
// One pass over the identities deals out floor(C / P) batches of a permutation of the C identities;
// the rest of it (fewer than P) is left out of that pass. An identity with n >= K images deals them
// out in groups of K of a permutation, all different within a batch; with fewer they repeat.
class BalancedSampler final : public Sampler {
 public:
  BalancedSampler(const BalancedOptions& options, const SamplerInput& input)
      : images_(options.images), seed_(input.seed) {
    FT_CHECK(input.weights.empty(),
             "the balanced sampler draws identities, not sets: remove the weights of the sets");
    FT_CHECK(options.identities > 0 || input.batch_size % images_ == 0,
             "the balanced sampler wants data.batch_size = identities * images, found {} with {} "
             "images",
             input.batch_size, images_);
    people_ = options.identities > 0 ? options.identities : input.batch_size / images_;
    FT_CHECK(people_ * images_ == input.batch_size,
             "the balanced sampler wants data.batch_size = identities * images = {} * {} = {}, "
             "found {}",
             people_, images_, people_ * images_, input.batch_size);
    index_classes(input);
    FT_CHECK(
        classes() >= people_,
        "wanted {} different identities a batch, the data has {}: lower data.sampler.identities",
        people_, classes());
  }
  // Images of all sets, so that an epoch is as long as with the other samplers.
  int64_t epoch_size() const override { return static_cast<int64_t>(members_.size()); }
  Draw at(int64_t position) const override { return draw(position, 0); }
  // Another image of the same identity; once those are used up, of the next identity of the
  // permutation.
  Draw replacement(int64_t position, int64_t attempt) const override {
    return draw(position, attempt);
  }

 private:
  int64_t classes() const { return static_cast<int64_t>(begin_.size()) - 1; }

  void index_classes(const SamplerInput& input) {
    std::vector<std::pair<int64_t, Draw>> all;
    int64_t first_class = 0;
    for (size_t set = 0; set < input.sets.size(); ++set) {
      const Source& source = *input.sets[set];
      FT_CHECK(source.identities() > 0,
               "the balanced sampler wants identities, set '{}' has none: use the sampler shuffle",
               source.name());
      for (int64_t i = 0; i < source.size(); ++i) {
        if (const int64_t identity = source.identity(i); identity >= 0)
          all.push_back({first_class + identity, {static_cast<int64_t>(set), i}});
      }
      first_class += source.identities();
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    for (size_t i = 0; i < all.size(); ++i) {
      if (i == 0 || all[i].first != all[i - 1].first) begin_.push_back(static_cast<int64_t>(i));
      members_.push_back(all[i].second);
    }
    begin_.push_back(static_cast<int64_t>(members_.size()));
    check_pairs(input);
  }

  // An identity with one image would be its own positive pair.
  void check_pairs(const SamplerInput& input) const {
    if (images_ < 2) return;
    int64_t single = 0;
    std::string first;
    for (size_t person = 0; person + 1 < begin_.size(); ++person) {
      if (begin_[person + 1] - begin_[person] > 1) continue;
      const Draw& only = members_[static_cast<size_t>(begin_[person])];
      if (single++ == 0) first = input.sets[static_cast<size_t>(only.set)]->describe(only.index);
    }
    FT_CHECK(single == 0,
             "the balanced sampler wants at least two images of each identity, found one for {} of "
             "{} (first: {}); leave these out (facetrain shards pack --min-images 2 names them) or "
             "use the sampler shuffle",
             single, classes(), first);
  }

  Draw draw(int64_t position, int64_t attempt) const {
    const int64_t batch = position / (people_ * images_), row = position % (people_ * images_);
    const int64_t batches = classes() / people_, pass = batch / batches;
    const Permutation people(classes(), random_key(seed_, name_key("balanced"), pass));
    for (int64_t rank = batch % batches * people_ + row / images_;; ++rank) {
      const int64_t person = people(rank % classes());
      const int64_t begin = begin_[static_cast<size_t>(person)];
      const int64_t count = begin_[static_cast<size_t>(person) + 1] - begin;
      if (attempt >= count) {
        attempt -= count;
        continue;
      }
      const int64_t groups = std::max<int64_t>(1, count / images_);
      const Permutation order(count, random_key(seed_, name_key("images"), person, pass / groups));
      const int64_t offset = pass % groups * images_ + row % images_ + attempt;
      return members_[static_cast<size_t>(begin + order(offset % count))];
    }
  }

  int64_t people_ = 0, images_;
  uint64_t seed_;
  std::vector<int64_t> begin_;  // [classes + 1] into members_
  std::vector<Draw> members_;   // by class
};

const bool shuffle_registered = Samplers::get().add<ShuffleSampler, NoOptions>(
    "shuffle", "a new permutation of the data each epoch; joined sets dealt by their weights");
const bool sequential_registered = Samplers::get().add<SequentialSampler, NoOptions>(
    "sequential", "the order of the data, each epoch");
const bool balanced_registered = Samplers::get().add<BalancedSampler, BalancedOptions>(
    "balanced", "P x K: as many images of each of several identities in every batch");

}  // namespace
}  // namespace facetrain
