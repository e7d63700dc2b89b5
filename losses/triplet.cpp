// Triplet loss [d_ap - d_an + α]+ on squared distances of unit vectors. Schroff et al. 2015
// (FaceNet), arXiv:1503.03832, eq. 3, with α = 0.2; insightface trains with 0.3.
//
// Published as a sum over the chosen triplets. Here each anchor takes the mean over its own, those
// that cost nothing included:
//   semihard  FaceNet eq. 4: for every positive the closest negative that is further away; none if
//             there is no such negative;
//   hard      one triplet an anchor: furthest positive, closest negative (Hermans et al. 2017,
//             arXiv:1703.07737, eq. 5);
//   all       every positive with every negative (there eq. 6).
#include <limits>

#include "core/torch.h"
#include "losses/pair_loss.h"

namespace facetrain {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct TripletOptions {
  double margin = 0.2;
  std::string mining = "semihard";
  void fields(auto& f) {
    f("margin", margin, range(0, 4), "α, in squared distances of unit vectors (0 ... 4)");
    f("mining", mining, one_of("semihard", "hard", "all"),
      "semihard: the closest negative beyond each positive | hard: furthest positive and closest "
      "negative of each anchor | all triplets");
  }
};

// An anchor's negatives by distance; what is none comes last, at infinity. The row itself is none,
// so every row ends in infinity.
struct SortedNegatives {
  at::Tensor distance, column;  // [A, B], detached

  SortedNegatives(const at::Tensor& distances, const at::Tensor& other) {
    std::tie(distance, column) = at::where(other, distances.detach(), kInfinity)
                                     .sort(/*stable=*/true, /*dim=*/1, /*descending=*/false);
  }
  // How many of the row's negatives are below `bound` [A, B], or not above it.
  at::Tensor count(const at::Tensor& bound, bool equal_too) const {
    return at::searchsorted(distance, bound.detach().contiguous(), /*out_int32=*/false, equal_too);
  }
};

class Triplet : public PairLoss {
 public:
  explicit Triplet(const TripletOptions& options) : options_(options) {}

  at::Tensor apply(const PairInput& input) const override {
    const at::Tensor distance = 2 - 2 * input.cosine;
    if (options_.mining == "hard") return hardest(distance, input);
    return options_.mining == "all" ? all(distance, input) : semihard(distance, input);
  }

 private:
  at::Tensor hardest(const at::Tensor& distance, const PairInput& input) const {
    const at::Tensor positive = at::where(input.same, distance, -kInfinity).amax(1);
    const at::Tensor negative = at::where(input.other, distance, kInfinity).amin(1);
    return (positive - negative + options_.margin).relu();
  }

  at::Tensor semihard(const at::Tensor& distance, const PairInput& input) const {
    const SortedNegatives negatives(distance, input.other);
    // The clamp is for distances that are no numbers: they are beyond everything.
    const at::Tensor place =
        negatives.count(distance, /*equal_too=*/true).clamp_max(distance.size(1) - 1);
    const at::Tensor found = negatives.distance.gather(1, place).isfinite();
    const at::Tensor negative = distance.gather(1, negatives.column.gather(1, place));
    const at::Tensor hinge = (distance - negative + options_.margin).relu();
    return masked_mean(at::where(found, hinge, 0), input.same);
  }

  // Σ over the negatives nearer than d_ap + α, by prefix sums of the sorted distances: no [A, B,
  // B].
  at::Tensor all(const at::Tensor& distance, const PairInput& input) const {
    const SortedNegatives negatives(distance, input.other);
    const at::Tensor bound = distance + options_.margin;
    const at::Tensor count = negatives.count(bound, /*equal_too=*/false);
    const at::Tensor sorted =
        at::where(negatives.distance.isfinite(), distance.gather(1, negatives.column), 0);
    const at::Tensor prefix = at::constant_pad_nd(sorted.cumsum(1), {1, 0});
    const at::Tensor total = count * bound - prefix.gather(1, count);
    return masked_mean(total, input.same) / input.other.sum(1).clamp_min(1);
  }

  TripletOptions options_;
};

const bool registered = PairLosses::get().add<Triplet, TripletOptions>(
    "triplet", "hinge on squared distances, semi-hard negatives (FaceNet, Schroff 2015)");

}  // namespace
}  // namespace facetrain
