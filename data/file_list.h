// Image files with labels, found on the disk: a folder per identity, or a list file. Shared by the
// sources and `pack`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace facetrain {

struct FileList {
  struct Item {
    std::string key;        // path below `root`, '/' between its parts
    int64_t identity = -1;  // -1: the set has no identities
    int64_t bytes = 0;      // length of the file
  };
  std::string name;  // of the set: the last part of the path
  std::filesystem::path root;
  std::vector<Item> items;  // in the order of the set
  std::vector<std::string> warnings;
  std::filesystem::path file(const Item& item) const { return root / item.key; }
};

// `folder` with one sub-folder an identity, numbered in byte order of their names; images (.jpg
// .jpeg .png .pgm .ppm, any case) at any depth below, in byte order of their paths. A sub-folder
// without images is skipped with a warning, files of other endings are too. Images directly in
// `folder` and no sub-folder with any: a set without identities. Hidden files are ignored.
FileList list_folder(const std::filesystem::path& folder);

// Every image below `folder`, in byte order of their paths, as a set without identities.
FileList list_images(const std::filesystem::path& folder);

// Lines `path<TAB>label`, paths relative to the list's folder, labels >= 0. Errors name file and
// line.
FileList read_list(const std::filesystem::path& file);

// Whether a file's name ends as those of images do: .jpg .jpeg .png .pgm .ppm, in any case.
bool is_image(const std::filesystem::path& path);

// The labels below the largest that no item has, "1, 2 ... (12 in all)"; empty when there are none.
std::string list_gaps(const FileList& list);

// The whole file. Throws with its name.
std::vector<uint8_t> read_bytes(const std::filesystem::path& file);

// Throws "there is no 'sets/a' (did you mean 'sets/b'?)" unless the path exists.
void check_exists(const std::filesystem::path& path);

}  // namespace facetrain
