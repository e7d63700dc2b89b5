// Lists of image pairs, "same person or not" in folds: the input of the verification protocol.
//
// Two text forms are read. CSV lines `fold,i,j,same` with row numbers from 0 (an optional header
// line), for embedding files and shard sets. LFW's own form, for image folders: a header line
// `folds<TAB>n`, then for each fold n lines `name<TAB>a<TAB>b` (same) and n lines
// `name1<TAB>a<TAB>name2<TAB>b` (different), images numbered from 1.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace facetrain {

struct Pair {
  int64_t fold;           // any number; equal numbers make a fold
  int64_t first, second;  // rows
  bool same;
};
using PairList = std::vector<Pair>;

// Throws with file and line for anything that is not a pair of two of the `rows` rows.
PairList read_csv_pairs(const std::filesystem::path& file, int64_t rows);

// Pairs over a list of images that the file names.
struct NamedPairs {
  PairList pairs;                   // rows of `images`
  std::vector<std::string> images;  // by first mention, "Abel_Pacheco/Abel_Pacheco_0001"
  std::vector<int64_t> lines;       // of each image's first mention
};
// Throws with file and line, also when the number of pairs is not what the header says.
NamedPairs read_lfw_pairs(const std::filesystem::path& file);

// Pairs of rows of a set: names[row] is the path of an image below the folder, with its extension,
// which the list does not say. Throws with the line of the first image that is not there; `path`
// names the set.
PairList locate_pairs(const NamedPairs& named, const std::vector<std::string>& names,
                      const std::filesystem::path& file, const std::string& path);

// Whether a pair file is in CSV form: its first line that is not empty has a comma.
bool is_csv_pairs(const std::filesystem::path& file);

}  // namespace facetrain
