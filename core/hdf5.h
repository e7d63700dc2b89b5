// RAII for HDF5 handles, and one process-wide lock: the library lets one thread in at a time
// anyway.
//
// Only the writers of shards and embeddings and the opening of a file go through here; samples are
// read without HDF5.
#pragma once

#include <hdf5.h>

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <span>
#include <string>
#include <vector>

namespace facetrain {

// Hold it around every call into HDF5. Recursive, because the helpers below take it themselves.
std::recursive_mutex& hdf5_mutex();

// An identifier with its close function: `Hdf5Handle file(H5Fopen(...), H5Fclose, "what was opened,
// in which file");` A negative identifier throws with HDF5's own innermost message.
class Hdf5Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Hdf5Handle() = default;
  Hdf5Handle(hid_t id, Close close, const std::string& what);
  ~Hdf5Handle();
  Hdf5Handle(Hdf5Handle&& other) noexcept;
  Hdf5Handle& operator=(Hdf5Handle&& other) noexcept;
  operator hid_t() const { return id_; }  // NOLINT: handed to the C interface
  void reset();

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

// Throws unless `status` is non-negative.
void hdf5_check(herr_t status, const std::string& what);

// Attributes of any object (group, data set, file), as scalars or UTF-8 strings.
void write_attribute(hid_t object, const std::string& name, int64_t value);
void write_attribute(hid_t object, const std::string& name, double value);
void write_attribute(hid_t object, const std::string& name, const std::string& value);
int64_t read_int_attribute(hid_t object, const std::string& name);
std::string read_string_attribute(hid_t object, const std::string& name);
bool has_attribute(hid_t object, const std::string& name);

// A contiguous data set of fixed shape, stored early and without fill. `type` (H5T_IEEE_F32LE ...)
// is the type in the file and in memory. No data is written from a null pointer.
Hdf5Handle write_array(hid_t parent, const std::string& name, hid_t type,
                       std::span<const int64_t> shape, const void* data);

struct Hdf5Array {
  Hdf5Handle dataset;
  std::vector<int64_t> shape;
  int64_t elements() const;
};
// Throws unless `parent` has a data set `name` of exactly this type, whose stored bytes can lie in
// the file.
Hdf5Array open_array(hid_t parent, const std::string& name, hid_t type);
// All elements into `out`, which has room for them.
void read_array(const Hdf5Array& array, hid_t type, void* out);

}  // namespace facetrain
