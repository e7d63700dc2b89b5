#include "core/hdf5.h"

#include <utility>
#include <vector>

#include "core/check.h"

namespace facetrain {
namespace {

// HDF5 prints its error stack by itself unless told otherwise, once a thread.
void silence_this_thread() {
  thread_local const bool silent = H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0;
  static_cast<void>(silent);
}

herr_t keep_first(unsigned, const H5E_error2_t* error, void* message) {
  auto& text = *static_cast<std::string*>(message);
  if (text.empty() && error->desc != nullptr) text = error->desc;
  return 0;
}

// Of "file write failed: time = .., error message = 'No space left on device', buf = 0x.." the
// first and the last that a person can use.
std::string readable(const std::string& text) {
  const size_t details = text.find(": time = ");
  if (details == std::string::npos) return text;
  const std::string mark = "error message = '";
  const size_t reason = text.find(mark, details);
  if (reason == std::string::npos) return text.substr(0, details);
  const size_t begin = reason + mark.size();
  return text.substr(0, details) + ": " + text.substr(begin, text.find('\'', begin) - begin);
}

[[noreturn]] void fail(const std::string& what) {
  std::string message;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first, &message);
  H5Eclear2(H5E_DEFAULT);
  FT_FAIL("{}: HDF5 says '{}'", what, message.empty() ? "no reason" : readable(message));
}

std::string attribute_text(const std::string& name) {
  return fmt::format("HDF5 attribute '{}'", name);
}

void write_any(hid_t object, const std::string& name, hid_t type, hid_t memory, const void* value) {
  const std::string what = "writing " + attribute_text(name);
  if (H5Aexists(object, name.c_str()) > 0) {  // overwritten in place: the file keeps its length
    const Hdf5Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, what);
    return hdf5_check(H5Awrite(attribute, memory, value), what);
  }
  const Hdf5Handle space(H5Screate(H5S_SCALAR), H5Sclose, what);
  const Hdf5Handle attribute(
      H5Acreate2(object, name.c_str(), type, space, H5P_DEFAULT, H5P_DEFAULT), H5Aclose, what);
  hdf5_check(H5Awrite(attribute, memory, value), what);
}

Hdf5Handle open_scalar(hid_t object, const std::string& name) {
  const std::string what = "reading " + attribute_text(name);
  Hdf5Handle attribute(H5Aopen(object, name.c_str(), H5P_DEFAULT), H5Aclose, what);
  const Hdf5Handle space(H5Aget_space(attribute), H5Sclose, what);
  FT_CHECK(H5Sget_simple_extent_npoints(space) == 1, "{}: wanted one value, found {}",
           attribute_text(name), H5Sget_simple_extent_npoints(space));
  return attribute;
}

std::string read_variable_string(hid_t attribute, hid_t type, const std::string& what) {
  char* text = nullptr;
  const Hdf5Handle memory(H5Tcopy(type), H5Tclose, what);
  hdf5_check(H5Aread(attribute, memory, static_cast<void*>(&text)), what);
  std::string value = text == nullptr ? "" : text;
  H5free_memory(text);
  return value;
}

}  // namespace

std::recursive_mutex& hdf5_mutex() {
  static std::recursive_mutex mutex;
  const std::lock_guard lock(mutex);
  silence_this_thread();
  return mutex;
}

Hdf5Handle::Hdf5Handle(hid_t id, Close close, const std::string& what) : id_(id), close_(close) {
  const std::lock_guard lock(hdf5_mutex());
  if (id_ < 0) fail(what);
}

Hdf5Handle::~Hdf5Handle() { reset(); }

Hdf5Handle::Hdf5Handle(Hdf5Handle&& other) noexcept
    : id_(std::exchange(other.id_, -1)), close_(other.close_) {}

Hdf5Handle& Hdf5Handle::operator=(Hdf5Handle&& other) noexcept {
  if (this != &other) {
    reset();
    id_ = std::exchange(other.id_, -1);
    close_ = other.close_;
  }
  return *this;
}

void Hdf5Handle::reset() {
  if (id_ < 0) return;
  const std::lock_guard lock(hdf5_mutex());
  close_(std::exchange(id_, -1));
}

void hdf5_check(herr_t status, const std::string& what) {
  const std::lock_guard lock(hdf5_mutex());
  if (status < 0) fail(what);
}

void write_attribute(hid_t object, const std::string& name, int64_t value) {
  const std::lock_guard lock(hdf5_mutex());
  write_any(object, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

void write_attribute(hid_t object, const std::string& name, double value) {
  const std::lock_guard lock(hdf5_mutex());
  write_any(object, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

void write_attribute(hid_t object, const std::string& name, const std::string& value) {
  const std::lock_guard lock(hdf5_mutex());
  const Hdf5Handle type(H5Tcopy(H5T_C_S1), H5Tclose, attribute_text(name));
  // Of fixed length: variable-length strings lie in a heap of their own that has no checksum.
  hdf5_check(H5Tset_size(type, value.size() + 1), attribute_text(name));
  hdf5_check(H5Tset_cset(type, H5T_CSET_UTF8), attribute_text(name));
  write_any(object, name, type, type, value.c_str());
}

int64_t read_int_attribute(hid_t object, const std::string& name) {
  const std::lock_guard lock(hdf5_mutex());
  const Hdf5Handle attribute = open_scalar(object, name);
  const Hdf5Handle type(H5Aget_type(attribute), H5Tclose, attribute_text(name));
  FT_CHECK(H5Tget_class(type) == H5T_INTEGER, "{}: wanted an integer", attribute_text(name));
  int64_t value = 0;
  hdf5_check(H5Aread(attribute, H5T_NATIVE_INT64, &value), "reading " + attribute_text(name));
  return value;
}

std::string read_string_attribute(hid_t object, const std::string& name) {
  const std::lock_guard lock(hdf5_mutex());
  const std::string what = "reading " + attribute_text(name);
  const Hdf5Handle attribute = open_scalar(object, name);
  const Hdf5Handle type(H5Aget_type(attribute), H5Tclose, what);
  FT_CHECK(H5Tget_class(type) == H5T_STRING, "{}: wanted a string", attribute_text(name));
  if (H5Tis_variable_str(type) > 0) return read_variable_string(attribute, type, what);
  const size_t size = H5Tget_size(type);
  FT_CHECK(size <= (size_t{1} << 20), "{}: a string of {} bytes is too long", attribute_text(name),
           size);
  std::vector<char> text(size + 1, '\0');
  hdf5_check(H5Aread(attribute, type, text.data()), what);
  return text.data();
}

bool has_attribute(hid_t object, const std::string& name) {
  const std::lock_guard lock(hdf5_mutex());
  return H5Aexists(object, name.c_str()) > 0;
}

Hdf5Handle write_array(hid_t parent, const std::string& name, hid_t type,
                       std::span<const int64_t> shape, const void* data) {
  const std::lock_guard lock(hdf5_mutex());
  const std::string what = fmt::format("writing data set '{}'", name);
  const std::vector<hsize_t> extent(shape.begin(), shape.end());
  const Hdf5Handle space(H5Screate_simple(static_cast<int>(extent.size()), extent.data(), nullptr),
                         H5Sclose, what);
  const Hdf5Handle plan(H5Pcreate(H5P_DATASET_CREATE), H5Pclose, what);
  hdf5_check(H5Pset_layout(plan, H5D_CONTIGUOUS), what);
  hdf5_check(H5Pset_alloc_time(plan, H5D_ALLOC_TIME_EARLY), what);
  hdf5_check(H5Pset_fill_time(plan, H5D_FILL_TIME_NEVER), what);
  hdf5_check(H5Pset_obj_track_times(plan, false), what);
  hdf5_check(H5Pset_attr_phase_change(plan, 32, 0), what);  // attributes beside their data set
  Hdf5Handle dataset(H5Dcreate2(parent, name.c_str(), type, space, H5P_DEFAULT, plan, H5P_DEFAULT),
                     H5Dclose, what);
  if (data != nullptr)
    hdf5_check(H5Dwrite(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), what);
  return dataset;
}

int64_t Hdf5Array::elements() const {
  int64_t count = 1;
  for (const int64_t length : shape) count *= length;
  return count;
}

Hdf5Array open_array(hid_t parent, const std::string& name, hid_t type) {
  const std::lock_guard lock(hdf5_mutex());
  const std::string what = fmt::format("data set '{}'", name);
  Hdf5Array array{{H5Dopen2(parent, name.c_str(), H5P_DEFAULT), H5Dclose, what}, {}};
  const Hdf5Handle stored(H5Dget_type(array.dataset), H5Tclose, what);
  FT_CHECK(H5Tequal(stored, type) > 0, "{} has another element type than wanted", what);
  const Hdf5Handle space(H5Dget_space(array.dataset), H5Sclose, what);
  const int rank = H5Sget_simple_extent_ndims(space);
  FT_CHECK(rank >= 1 && rank <= 8, "{} has {} dimensions: wanted 1 to 8", what, rank);
  std::vector<hsize_t> extent(static_cast<size_t>(rank));
  hdf5_check(H5Sget_simple_extent_dims(space, extent.data(), nullptr), what);
  // Never more elements than bytes are stored: a forged extent must not ask for all memory.
  const hsize_t stored_bytes = H5Dget_storage_size(array.dataset);
  const size_t element = H5Tget_size(type);
  hsize_t count = 1;
  for (const hsize_t length : extent) {
    FT_CHECK(length == 0 || count <= stored_bytes / length,
             "{} is larger than what is stored of it", what);
    count *= length;
    array.shape.push_back(static_cast<int64_t>(length));
  }
  FT_CHECK(count * element <= stored_bytes, "{} is larger than what is stored of it", what);
  return array;
}

void read_array(const Hdf5Array& array, hid_t type, void* out) {
  const std::lock_guard lock(hdf5_mutex());
  if (array.elements() == 0) return;
  hdf5_check(H5Dread(array.dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out),
             "reading a data set");
}

}  // namespace facetrain
