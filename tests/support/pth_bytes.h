// Pickles and zip archives as bytes, written here opcode by opcode and header by header, so that
// tests can make sound ones, and unsound ones in exactly one way.
#pragma once

#include <zlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace facetrain {

template <class T>
std::string little_endian(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// ---- pickles: every function gives the opcodes that leave one value on the stack ----------------
namespace pickled {
inline std::string text(const std::string& value) {
  return "X" + little_endian(static_cast<uint32_t>(value.size())) + value;
}
inline std::string integer(int64_t value) {
  return std::string("\x8a\x08", 2) + little_endian(value);
}
inline std::string global(const std::string& module, const std::string& name) {
  return "c" + module + "\n" + name + "\n";
}
inline std::string tuple(const std::vector<std::string>& items) {
  std::string all = "(";
  for (const auto& item : items) all += item;
  return all + "t";
}
inline std::string integers(const std::vector<int64_t>& values) {
  std::vector<std::string> items;
  for (const int64_t value : values) items.push_back(integer(value));
  return tuple(items);
}
inline std::string call(const std::string& callee, const std::vector<std::string>& arguments) {
  return callee + tuple(arguments) + "R";
}
inline std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string all = "}(";
  for (const auto& [key, value] : items) all += text(key) + value;
  return all + "u";
}
inline std::string storage(const std::string& type, const std::string& key, int64_t count) {
  return tuple({text("storage"), global("torch", type), text(key), text("cpu"), integer(count),
                "N"}) +
         "Q";
}
inline std::string tensor(const std::string& storage, int64_t offset,
                          const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  return call(global("torch._utils", "_rebuild_tensor_v2"),
              {storage, integer(offset), integers(sizes), integers(strides), "\x89",
               call(global("collections", "OrderedDict"), {})});
}
inline std::string whole(const std::string& value) { return "\x80\x02" + value + "."; }
}  // namespace pickled

// ---- zip ----------------------------------------------------------------------------------------
struct ZipPart {
  std::string name, bytes;
  uint16_t method = 0, flags = 0;
  uint32_t crc_error = 0;    // is added to the right checksum
  bool zip64 = false;        // sizes and offset in the extra field
  std::string local_name{};  // another name in the local header
};

inline std::string zip_bytes(const std::vector<ZipPart>& parts, bool zip64_end = false) {
  std::string file, directory;
  for (const auto& part : parts) {
    const auto size = static_cast<uint32_t>(part.bytes.size());
    const auto offset = static_cast<uint32_t>(file.size());
    const auto name = static_cast<uint16_t>(part.name.size());
    const auto crc = static_cast<uint32_t>(
        crc32_z(0, reinterpret_cast<const Bytef*>(part.bytes.data()), part.bytes.size()) +
        part.crc_error);
    const std::string common = little_endian<uint16_t>(20) + little_endian(part.flags) +
                               little_endian(part.method) + little_endian<uint32_t>(0) +
                               little_endian(crc);
    const std::string padding(7, 'Z');
    file += little_endian<uint32_t>(0x04034b50) + common + little_endian(size) +
            little_endian(size) + little_endian(name) + little_endian<uint16_t>(7) +
            (part.local_name.empty() ? part.name : part.local_name) + padding + part.bytes;
    std::string extra;
    if (part.zip64)
      extra = little_endian<uint16_t>(0x4242) + little_endian<uint16_t>(1) + "?" +
              little_endian<uint16_t>(1) + little_endian<uint16_t>(24) +
              little_endian<uint64_t>(size) + little_endian<uint64_t>(size) +
              little_endian<uint64_t>(offset);
    const uint32_t wide = 0xffffffff;
    directory += little_endian<uint32_t>(0x02014b50) + little_endian<uint16_t>(45) + common +
                 little_endian(part.zip64 ? wide : size) + little_endian(part.zip64 ? wide : size) +
                 little_endian(name) + little_endian(static_cast<uint16_t>(extra.size())) +
                 std::string(10, '\0') + little_endian(part.zip64 ? wide : offset) + part.name +
                 extra;
  }
  const auto begin = static_cast<uint64_t>(file.size());
  const auto count = static_cast<uint16_t>(parts.size());
  const auto length = static_cast<uint64_t>(directory.size());
  file += directory;
  if (zip64_end) {
    const auto at = static_cast<uint64_t>(file.size());
    file += little_endian<uint32_t>(0x06064b50) + little_endian<uint64_t>(44) +
            std::string(12, '\0') + little_endian<uint64_t>(count) +
            little_endian<uint64_t>(count) + little_endian(length) + little_endian(begin);
    file += little_endian<uint32_t>(0x07064b50) + little_endian<uint32_t>(0) + little_endian(at) +
            little_endian<uint32_t>(1);
  }
  const bool wide = zip64_end;
  return file + little_endian<uint32_t>(0x06054b50) + std::string(4, '\0') +
         little_endian<uint16_t>(wide ? 0xffff : count) +
         little_endian<uint16_t>(wide ? 0xffff : count) +
         little_endian<uint32_t>(wide ? 0xffffffff : static_cast<uint32_t>(length)) +
         little_endian<uint32_t>(wide ? 0xffffffff : static_cast<uint32_t>(begin)) +
         little_endian<uint16_t>(0);
}

// A .pth file of this pickle and these storages, by their keys.
inline std::string pth_bytes(const std::string& pickle,
                             const std::vector<std::pair<std::string, std::string>>& storages) {
  std::vector<ZipPart> parts{{"face/data.pkl", pickle}, {"face/byteorder", "little"}};
  for (const auto& [key, bytes] : storages) parts.push_back({"face/data/" + key, bytes});
  return zip_bytes(parts);
}

// The form before PyTorch 1.6; every storage holds `counts` elements.
struct LegacyStorage {
  std::string key, bytes;
  int64_t count;
};
inline std::string legacy_pth_bytes(const std::string& pickle,
                                    const std::vector<LegacyStorage>& storages) {
  std::string keys = "](", data;
  for (const auto& storage : storages) {
    keys += pickled::text(storage.key);
    data += little_endian(storage.count) + storage.bytes;
  }
  const std::string magic("\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19", 12);
  return pickled::whole(magic) + pickled::whole(pickled::integer(1001)) +
         pickled::whole(pickled::dict({{"little_endian", "\x88"}})) + pickle +
         pickled::whole(keys + "e") + data;
}

inline std::filesystem::path write_bytes(const std::filesystem::path& file,
                                         const std::string& bytes) {
  std::ofstream(file, std::ios::binary) << bytes;
  return file;
}

}  // namespace facetrain
