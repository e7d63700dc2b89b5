// Weights that torch.save wrote, read without Python and without running anything.
//
// Two forms: since PyTorch 1.6 a zip archive (`<name>/data.pkl` and `<name>/data/<key>`), before
// that pickles and storages one after the other. The pickle is data to us (core/pickle.h); the only
// names it may ask for are those of dense tensors and of plain values, everything else is refused
// by its name. (reference/ssl_peft_unlearning.md 8.4)
#pragma once

#include "core/binary_file.h"
#include "core/pickle.h"
#include "core/weights_file.h"

namespace facetrain {

// A tensor is read when it is asked for, from a storage that is read whole (its checksum is of the
// whole); the last storage is kept, since several tensors may be views of one. Not for two threads.
class PthFile : public WeightsFile {
 public:
  // Throws unless the file is sound and holds tensors in dicts and lists, at any depth.
  explicit PthFile(const std::filesystem::path& file);
  at::Tensor read(const std::string& name) const override;

  // Whether these first 16 bytes are of the form before 1.6.
  static bool is_legacy(const std::string& head);

 private:
  struct Storage {
    uint64_t begin = 0, bytes = 0;
    uint32_t crc = 0;
  };
  struct Placed {  // a tensor's place in its storage, in elements
    std::string storage;
    int64_t offset = 0;
    std::vector<int64_t> strides;
  };
  void open_archive();
  void open_legacy();
  // Where the storages lie that follow the pickles, from byte `at` on.
  void place_legacy_storages(const Pickle& object, const Pickle& keys, uint64_t at);
  // Puts every tensor below the pickle's root into tensors_ and placed_.
  void collect(const Pickle& pickle);
  void add(const std::string& name, WeightInfo info, Placed place);
  // Throws unless every element lies in the storage.
  void check_bounds(const std::string& name, const WeightInfo& info, const Placed& place) const;

  BinaryFile file_;
  std::map<std::string, Storage> storages_;
  std::map<std::string, Placed> placed_;
  mutable std::string kept_name_;
  mutable at::Tensor kept_;  // bytes of storage kept_name_
};

}  // namespace facetrain
