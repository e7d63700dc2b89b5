// RAII for HDF5 handles, and one process-wide lock: the library lets one thread in at a time anyway.
//
// Only the writers of shards and embeddings and the opening of a file go through here; samples are read without HDF5.
#pragma once

#include <hdf5.h>

#include <filesystem>
#include <mutex>
#include <string>

namespace facetrain {

// Hold it around every call into HDF5. Recursive, because the helpers below take it themselves.
std::recursive_mutex& hdf5_mutex();

// An identifier with its close function: `Hdf5Handle file(H5Fopen(...), H5Fclose, "what was opened, in which file");`
// A negative identifier throws with HDF5's own innermost message.
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
double read_double_attribute(hid_t object, const std::string& name);
std::string read_string_attribute(hid_t object, const std::string& name);
bool has_attribute(hid_t object, const std::string& name);

}  // namespace facetrain
