#include "eval/embeddings.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <regex>

#include "core/check.h"
#include "core/durable_file.h"
#include "core/hdf5.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

constexpr char kMagic[] = "\x93NUMPY";
constexpr size_t kMagicSize = 6;

// Reads `size` bytes or throws.
std::string read_bytes(std::ifstream& stream, size_t size, const fs::path& file) {
  std::string bytes(size, '\0');
  stream.read(bytes.data(), static_cast<std::streamsize>(size));
  FT_CHECK(static_cast<size_t>(stream.gcount()) == size, "{}: truncated .npy file", file.string());
  return bytes;
}

// The value of `'key': value` in the header, up to the comma outside of brackets.
std::string header_value(const std::string& header, const std::string& key, const fs::path& file) {
  std::smatch match;
  const std::regex pattern("'" + key + R"('\s*:\s*('[^']*'|\([^)]*\)|\w+))");
  FT_CHECK(std::regex_search(header, match, pattern), "{}: the .npy header has no '{}': {}",
           file.string(), key, header);
  return match[1];
}

// Throws unless the header tells of C-ordered little-endian float32 of two dimensions.
std::vector<int64_t> check_header(const std::string& header, const fs::path& file) {
  const std::string type = header_value(header, "descr", file),
                    shape = header_value(header, "shape", file);
  FT_CHECK(type == "'<f4'", "{}: wanted float32 ('<f4'), found {}; save array.astype('float32')",
           file.string(), type);
  FT_CHECK(header_value(header, "fortran_order", file) == "False",
           "{}: wanted C order, found Fortran order; save numpy.ascontiguousarray(array)",
           file.string());
  std::smatch match;
  FT_CHECK(
      std::regex_match(shape, match, std::regex(R"(\(\s*(\d{1,15})\s*,\s*(\d{1,9})\s*,?\s*\))")),
      "{}: wanted an array [N, D], found shape {}", file.string(), shape);
  return {std::stoll(match[1]), std::stoll(match[2])};
}

at::Tensor read_npy(const fs::path& file) {
  std::ifstream stream(file, std::ios::binary);
  FT_CHECK(stream && !fs::is_directory(file), "{}: cannot open these embeddings ({})",
           file.string(), fs::is_directory(file) ? "it is a folder" : std::strerror(errno));
  const std::string start = read_bytes(stream, 8, file);
  FT_CHECK(std::memcmp(start.data(), kMagic, kMagicSize) == 0,
           "{}: not a .npy file (its first bytes differ)", file.string());
  const int version = static_cast<unsigned char>(start[6]);
  FT_CHECK(version >= 1 && version <= 3, "{}: wanted .npy version 1 to 3, found {}", file.string(),
           version);
  const std::string length = read_bytes(stream, version == 1 ? 2 : 4, file);
  uint32_t header_size = 0;
  for (size_t k = length.size(); k-- > 0;)
    header_size = header_size << 8 | static_cast<unsigned char>(length[k]);
  FT_CHECK(header_size < 65536, "{}: .npy header of {} bytes; damaged", file.string(), header_size);
  const std::vector<int64_t> shape = check_header(read_bytes(stream, header_size, file), file);
  const uint64_t wanted = 4ull * static_cast<uint64_t>(shape[0]) * static_cast<uint64_t>(shape[1]);
  const uint64_t found = fs::file_size(file) - static_cast<uint64_t>(stream.tellg());
  FT_CHECK(wanted == found, "{}: [{}, {}] float32 takes {} bytes, found {}: truncated or damaged",
           file.string(), shape[0], shape[1], wanted, found);
  at::Tensor rows = at::empty(shape, at::kFloat);
  stream.read(static_cast<char*>(rows.data_ptr()), static_cast<std::streamsize>(wanted));
  FT_CHECK(stream.good() || wanted == 0, "{}: read error", file.string());
  return rows;
}

void write_npy(const fs::path& file, const at::Tensor& rows) {
  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows.size(0),
                  rows.size(1));
  const size_t unpadded = kMagicSize + 2 + 2 + header.size() + 1;
  header += std::string((64 - unpadded % 64) % 64, ' ') + "\n";  // data begins at a multiple of 64
  header.insert(0, {1, 0, static_cast<char>(header.size() & 255),
                    static_cast<char>(header.size() >> 8)});  // the version and the length
  header.insert(0, kMagic, kMagicSize);
  DurableFile out(file);
  out.write(header.data(), header.size(), 0);
  out.write(rows.data_ptr(), rows.nbytes(), header.size());
  out.publish();
}

// ---- HDF5
// ------------------------------------------------------------------------------------------------------------

Hdf5Handle string_type() {
  Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose, "a string type");
  hdf5_check(H5Tset_size(type, H5T_VARIABLE), "a string type");
  hdf5_check(H5Tset_cset(type, H5T_CSET_UTF8), "a string type");
  return type;
}

void write_texts(hid_t file, const char* dataset_name, const std::vector<std::string>& texts,
                 const std::string& what) {
  std::vector<const char*> pointers;
  for (const auto& text : texts) pointers.push_back(text.c_str());
  const hsize_t count = pointers.size();
  const Hdf5Handle type = string_type();
  const Hdf5Handle space(H5Screate_simple(1, &count, nullptr), H5Sclose, what);
  const Hdf5Handle dataset(
      H5Dcreate2(file, dataset_name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT), H5Dclose,
      what);
  hdf5_check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, pointers.data()), what);
}

void write_hdf5(const fs::path& file, const Embeddings& embeddings) {
  const std::lock_guard lock(hdf5_mutex());
  const std::string what = file.string();
  Hdf5Handle handle(H5Fcreate(file.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT), H5Fclose,
                    what);
  write_array(handle, "embeddings", H5T_IEEE_F32LE, embeddings.rows.sizes(),
              embeddings.rows.data_ptr());
  if (!embeddings.names.empty()) write_texts(handle, "names", embeddings.names, what);
  if (!embeddings.identities.empty())
    write_texts(handle, "identities", embeddings.identities, what);
  hdf5_check(H5Fflush(handle, H5F_SCOPE_GLOBAL), what);
}

std::vector<std::string> read_texts(hid_t file, const char* name, int64_t rows,
                                    const std::string& what) {
  if (H5Lexists(file, name, H5P_DEFAULT) <= 0) return {};
  const Hdf5Handle dataset(H5Dopen2(file, name, H5P_DEFAULT), H5Dclose, what);
  const Hdf5Handle space(H5Dget_space(dataset), H5Sclose, what);
  const Hdf5Handle stored(H5Dget_type(dataset), H5Tclose, what);
  FT_CHECK(H5Tis_variable_str(stored) > 0, "{}: wanted `{}` of variable-length text", what, name);
  FT_CHECK(H5Sget_simple_extent_npoints(space) == rows, "{}: {} {} for {} embeddings", what,
           H5Sget_simple_extent_npoints(space), name, rows);
  std::vector<char*> pointers(static_cast<size_t>(rows), nullptr);
  hdf5_check(H5Dread(dataset, stored, H5S_ALL, H5S_ALL, H5P_DEFAULT, pointers.data()), what);
  std::vector<std::string> texts;
  for (const char* pointer : pointers) texts.emplace_back(pointer == nullptr ? "" : pointer);
  hdf5_check(H5Dvlen_reclaim(stored, space, H5P_DEFAULT, pointers.data()), what);
  return texts;
}

Embeddings read_hdf5(const fs::path& file) {
  const std::lock_guard lock(hdf5_mutex());
  FT_CHECK(fs::is_regular_file(file), "{}: cannot open this file", file.string());
  const std::string what = file.string();
  const Hdf5Handle handle(H5Fopen(file.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT), H5Fclose, what);
  const Hdf5Array array = open_array(handle, "embeddings", H5T_IEEE_F32LE);
  FT_CHECK(array.shape.size() == 2, "{}: wanted `embeddings` [N, D], found {} dimensions", what,
           array.shape.size());
  Embeddings result;
  result.rows = at::empty(array.shape, at::kFloat);
  read_array(array, H5T_IEEE_F32LE, result.rows.data_ptr());
  result.names = read_texts(handle, "names", array.shape[0], what);
  result.identities = read_texts(handle, "identities", array.shape[0], what);
  return result;
}

bool is_npy(const fs::path& file) { return file.extension() == ".npy"; }

}  // namespace

bool is_embeddings_file(const fs::path& file) {
  return is_npy(file) || file.extension() == ".h5" || file.extension() == ".hdf5";
}

Embeddings read_embeddings(const fs::path& file) {
  FT_CHECK(is_embeddings_file(file), "{}: wanted embeddings as .npy or .h5", file.string());
  if (is_npy(file)) return {read_npy(file), {}, {}};
  return read_hdf5(file);
}

void write_embeddings(const fs::path& file, const Embeddings& embeddings) {
  FT_CHECK(is_embeddings_file(file), "{}: wanted a name that ends in .npy or .h5", file.string());
  FT_CHECK(embeddings.rows.dim() == 2, "wanted embeddings [N, D], found {} dimensions",
           embeddings.rows.dim());
  FT_CHECK(embeddings.names.empty() ||
               static_cast<int64_t>(embeddings.names.size()) == embeddings.rows.size(0),
           "{} names for {} embeddings", embeddings.names.size(), embeddings.rows.size(0));
  FT_CHECK(embeddings.identities.empty() ||
               static_cast<int64_t>(embeddings.identities.size()) == embeddings.rows.size(0),
           "{} identities for {} embeddings", embeddings.identities.size(),
           embeddings.rows.size(0));
  const Embeddings plain{embeddings.rows.to(at::kCPU, at::kFloat).contiguous(), embeddings.names,
                         embeddings.identities};
  if (is_npy(file)) return write_npy(file, plain.rows);
  fs::path temporary = file;
  temporary += ".tmp";
  try {
    write_hdf5(temporary, plain);
    rename_durably(temporary, file);
  } catch (const Error& error) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    FT_FAIL("cannot write '{}': {} (is the disk full, or the folder read-only?)", file.string(),
            error.what());
  }
}

}  // namespace facetrain
