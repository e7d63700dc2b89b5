// Who is who in a set, as text: identities that can be compared between two sets.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "data/source.h"

namespace facetrain {

// Keys of all images: paths below the folder that they come from, or descriptions.
std::vector<std::string> keys_of(const Source& source);

// The identity of each image. Where the set has numbers: the first folder of the image's key, if
// folders and numbers of the whole set are one to one (so that two sets made of folders agree on
// who is who), else the number as text. Empty when some image has no number.
std::vector<std::string> identities_of(const Source& source);

// The first folder of each name ("Ann" of "Ann/Ann_0001.jpg"); empty when a name has none.
std::vector<std::string> folders_of(const std::vector<std::string>& names);

// The values of a label column of the rows given, as text: the class's name where the column has
// such, else the number; empty where it is missing. `column` has one value an image (age_group), or
// is an entry of one that has several (attributes.glasses: "glasses" or "not glasses"). Reads the
// images too. Throws for any other column, with those that would do.
std::vector<std::string> labels_of(const Source& source, const std::string& column,
                                   const std::vector<int64_t>& rows);

// The same as numbers, of all rows; -1 where it is missing.
std::vector<int64_t> numbers_of(const Source& source, const std::string& column);

// One identity a line, as many as `rows`; a line takes any text. Throws with file and line for an
// empty line, and for another number of lines.
std::vector<std::string> read_labels(const std::filesystem::path& file, int64_t rows);

}  // namespace facetrain
