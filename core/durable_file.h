// Small files and renames that survive a power cut: written under a temporary name, fsynced, renamed, folder fsynced.
#pragma once

#include <filesystem>
#include <string>

namespace facetrain {

// Replaces `file` by `content`, all or nothing. Throws with the file's name.
void write_file_durably(const std::filesystem::path& file, const std::string& content);
// Renames within one folder and fsyncs that folder.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);
void sync_folder(const std::filesystem::path& folder);

}  // namespace facetrain
