#include "data/pairs.h"

#include <algorithm>

#include "core/check.h"
#include "core/durable_file.h"
#include "core/random.h"

namespace facetrain {
namespace {

// The p-th of the count * (count - 1) / 2 unordered pairs (a < b), counted along b.
std::pair<int64_t, int64_t> unordered_pair(int64_t p) {
  int64_t b = 1;
  while (b * (b + 1) / 2 <= p) ++b;
  return {p - b * (b - 1) / 2, b};
}

}  // namespace

std::vector<Pair> make_pairs(int64_t identities, int64_t images, int64_t folds, int64_t wanted,
                             uint64_t seed) {
  FT_CHECK(identities >= 2 && images >= 2,
           "pairs want at least two identities with two images each, found {} with {}", identities,
           images);
  folds = std::clamp<int64_t>(identities / 2, 1, folds);
  std::vector<Pair> pairs;
  const Permutation people(identities, random_key(seed, name_key("pair people")));
  const int64_t each = wanted / 2 / folds;
  for (int64_t fold = 0; fold < folds; ++fold) {
    const int64_t first = identities * fold / folds,
                  count = identities * (fold + 1) / folds - first;
    const int64_t in_person = images * (images - 1) / 2;
    const int64_t all_same = count * in_person;
    const int64_t all_different = count * (count - 1) / 2 * images * images;
    const int64_t take = std::min({each, all_same, all_different});
    const Permutation same(all_same, random_key(seed, name_key("same pairs"), fold));
    const Permutation different(all_different, random_key(seed, name_key("different pairs"), fold));
    for (int64_t n = 0; n < take; ++n) {
      const int64_t s = same(n);
      const auto [a, b] = unordered_pair(s % in_person);
      const int64_t person = people(first + s / in_person) * images;
      pairs.push_back({fold, person + a, person + b, true});
    }
    for (int64_t n = 0; n < take; ++n) {
      const int64_t d = different(n);
      const auto [p, q] = unordered_pair(d / (images * images));
      pairs.push_back({fold, people(first + p) * images + d / images % images,
                       people(first + q) * images + d % images, false});
    }
  }
  return pairs;
}

void write_pairs(const std::filesystem::path& file, const std::vector<Pair>& pairs) {
  std::string text = "fold,i,j,same\n";
  for (const Pair& pair : pairs)
    text += fmt::format("{},{},{},{}\n", pair.fold, pair.i, pair.j, pair.same ? 1 : 0);
  write_file_durably(file, text);
}

}  // namespace facetrain
