#include "core/pth_file.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <tuple>

#include "core/check.h"
#include "core/pth_globals.h"
#include "core/zip_reader.h"

namespace facetrain {
namespace {

using Kind = Pickle::Kind;
using Ref = Pickle::Ref;

constexpr uint64_t kMaxPickle = uint64_t{64} << 20;
constexpr int kMaxDepth = 32;
constexpr size_t kMaxName = 1024;
constexpr int64_t kMaxRepeated = int64_t{1} << 24;  // elements of a tensor larger than its storage
constexpr std::string_view kLegacyMagic{"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9 j\xa8P\x19.", 15};

// One call of torch._utils._rebuild_tensor*, taken apart.
struct TensorCall {
  std::string storage;
  at::ScalarType dtype;
  int64_t offset = 0;
  std::vector<int64_t> sizes, strides;
};

// Reads tensors out of a pickle's values.
class TensorReader {
 public:
  TensorReader(const Pickle& pickle, const std::string& where) : pickle_(pickle), where_(where) {}

  // The tensor that a value is, through Parameter and subclasses; nothing for other values.
  std::optional<TensorCall> tensor(Ref ref, const std::string& name) const {
    for (int depth = 0; depth < 8; ++depth) {
      const std::string& called = pickle_.called(ref);
      if (called == "torch._utils._rebuild_parameter" ||
          called == "torch._utils._rebuild_parameter_with_state") {
        ref = argument(ref, 0, name);
        continue;
      }
      if (!called.starts_with("torch._utils._rebuild_tensor")) return std::nullopt;
      return rebuild(ref, called.ends_with("_v3"), name);
    }
    fail(name, "parameters of parameters");
  }

  // The key and element type of ('storage', class, key, device, count); untyped: bytes.
  std::pair<std::string, at::ScalarType> storage(Ref ref, const std::string& name) const {
    const auto& id = persistent(ref, name);
    const auto& type = pickle_.at(id[1]);
    const auto dtype = type.kind == Kind::kGlobal ? storage_dtype(type.text) : std::nullopt;
    if (!dtype || pickle_.at(id[2]).kind != Kind::kText) fail(name, "its storage is unknown");
    return {pickle_.at(id[2]).text, *dtype};
  }
  bool is_view(Ref ref, const std::string& name) const {
    const auto& id = persistent(ref, name);
    return id.size() > 5 && !pickle_.is(id[5], Kind::kNone);
  }
  [[noreturn]] void fail(const std::string& name, const std::string& problem) const {
    FT_FAIL("{}: not a sound .pth file: tensor '{}': {}", where_, name, problem);
  }

 private:
  TensorCall rebuild(Ref ref, bool typed, const std::string& name) const {
    TensorCall call;
    std::tie(call.storage, call.dtype) = storage(argument(ref, 0, name), name);
    call.offset = integer(argument(ref, 1, name), name);
    call.sizes = integers(argument(ref, 2, name), name);
    call.strides = integers(argument(ref, 3, name), name);
    if (!typed) return call;
    const auto dtype = tensor_dtype(pickle_.at(argument(ref, 6, name)).text);
    if (!dtype) fail(name, "its type is not known to this reader");
    call.dtype = *dtype;
    return call;
  }
  const std::vector<Ref>& persistent(Ref ref, const std::string& name) const {
    const auto& value = pickle_.at(ref);
    if (value.kind != Kind::kPersistent || !pickle_.is(value.arguments, Kind::kTuple))
      fail(name, "it has no storage");
    const auto& id = pickle_.at(value.arguments).items;
    if (id.size() < 5 || pickle_.at(id[0]).text != "storage") fail(name, "it has no storage");
    return id;
  }
  Ref argument(Ref call, size_t index, const std::string& name) const {
    const auto& all = pickle_.arguments(call);
    if (index >= all.size()) fail(name, "it is built of too few values");
    return all[index];
  }
  int64_t integer(Ref ref, const std::string& name) const {
    if (!pickle_.is(ref, Kind::kInteger)) fail(name, "wanted a whole number");
    return pickle_.at(ref).integer;
  }
  // A tuple, or torch.Size of one.
  std::vector<int64_t> integers(Ref ref, const std::string& name) const {
    if (pickle_.called(ref) == "torch.Size") ref = argument(ref, 0, name);
    if (!pickle_.is(ref, Kind::kTuple) || pickle_.at(ref).items.size() > 64)
      fail(name, "wanted up to 64 sizes");
    std::vector<int64_t> result;
    for (const Ref item : pickle_.at(ref).items) result.push_back(integer(item, name));
    return result;
  }
  const Pickle& pickle_;
  const std::string& where_;
};

bool is_dict(const Pickle& pickle, Ref ref) {
  return pickle.is(ref, Kind::kDict) || is_dict_class(pickle.called(ref));
}

std::string key_text(const Pickle::Value& key) {
  if (key.kind == Kind::kText) return key.text;
  return key.kind == Kind::kInteger ? std::to_string(key.integer) : "";
}

// The value behind the type that LibTorch's own pickler adds to lists and dicts.
Ref untagged(const Pickle& pickle, Ref ref) {
  for (int depth = 0; depth < kMaxDepth; ++depth) {
    if (pickle.called(ref) != "torch.jit._pickle.restore_type_tag") break;
    if (pickle.arguments(ref).empty()) break;
    ref = pickle.arguments(ref)[0];
  }
  return ref;
}

// The (name, value) pairs of a dict, an OrderedDict([[name, value], ...]) or a list.
std::vector<std::pair<std::string, Ref>> members(const Pickle& pickle, Ref ref) {
  std::vector<std::pair<std::string, Ref>> result;
  const auto& value = pickle.at(ref);
  if (!is_dict(pickle, ref)) {
    if (value.kind == Kind::kList || value.kind == Kind::kTuple)
      for (size_t i = 0; i < value.items.size(); ++i)
        result.emplace_back(std::to_string(i), value.items[i]);
    return result;
  }
  if (value.kind == Kind::kCall)
    for (const Ref argument : pickle.arguments(ref))
      if (pickle.is(argument, Kind::kList))
        for (const Ref pair : pickle.at(argument).items)
          if (const auto& items = pickle.at(pair).items; items.size() == 2)
            result.emplace_back(key_text(pickle.at(items[0])), items[1]);
  for (size_t i = 0; i + 1 < value.items.size(); i += 2)
    result.emplace_back(key_text(pickle.at(value.items[i])), value.items[i + 1]);
  return result;
}

}  // namespace

bool PthFile::is_legacy(const std::string& head) { return head.starts_with(kLegacyMagic); }

PthFile::PthFile(const std::filesystem::path& file) : file_(file, ".pth file") {
  const std::string head = file_.read(std::min<uint64_t>(file_.size(), 16), 0, "its first bytes");
  if (is_legacy(head))
    open_legacy();
  else
    open_archive();
}

void PthFile::open_archive() {
  const std::string path = file_.path().string();
  const ZipReader archive(file_.path());
  std::string root;
  int found = 0;
  for (const auto& [name, entry] : archive.entries())
    if (name.ends_with("/data.pkl") && name.find('/') == name.size() - 9) {
      root = name.substr(0, name.size() - 8);
      ++found;
    }
  FT_CHECK(found == 1, "{}: not a .pth file: wanted one data.pkl in one folder, found {}", path,
           found);
  if (archive.entries().contains(root + "byteorder")) {
    const std::string order = archive.read(root + "byteorder", 64);
    FT_CHECK(order == "little", "{}: its numbers are '{}'-endian; wanted little", path, order);
  }
  const std::string folder = root + "data/";
  for (const auto& [name, entry] : archive.entries())
    if (name.starts_with(folder)) {
      const auto& checked = archive.entry(name);
      storages_[name.substr(folder.size())] = {checked.begin, checked.size, checked.crc};
    }
  const std::string text = archive.read(root + "data.pkl", kMaxPickle);
  collect(Pickle(text, path, [&](const std::string& global) { check_global(global, path); }));
}

// Magic number, version, system, the object, the storages' keys: five pickles; then of each storage
// its number of elements and its bytes, in the order of the keys.
void PthFile::open_legacy() {
  const std::string path = file_.path().string();
  const auto rule = [&](const std::string& global) { check_global(global, path); };
  const std::string text = file_.read(std::min(file_.size(), kMaxPickle), 0, "its pickles");
  uint64_t at = kLegacyMagic.size();
  const auto next = [&] {
    Pickle pickle(std::string_view(text).substr(at), path, rule);
    at += pickle.bytes();
    return pickle;
  };
  next();  // the version: one exists
  const Pickle system = next();
  for (const auto& [name, value] : members(system, system.root()))
    FT_CHECK(name != "little_endian" || system.at(value).integer == 1,
             "{}: its numbers are big-endian; wanted little", path);
  const Pickle object = next();
  const Pickle keys = next();
  place_legacy_storages(object, keys, at);
  collect(object);
}

void PthFile::place_legacy_storages(const Pickle& object, const Pickle& keys, uint64_t at) {
  const std::string path = file_.path().string();
  const TensorReader reader(object, path);
  std::map<std::string, uint64_t> element_sizes;
  for (Ref ref = 0; ref < object.size(); ++ref) {
    if (!object.is(ref, Kind::kPersistent)) continue;
    const auto [key, dtype] = reader.storage(ref, "?");
    if (reader.is_view(ref, key))
      reader.fail(key, "a view of a storage as PyTorch 0.x saved it; load it there and save again");
    element_sizes[key] = c10::elementSize(dtype);
  }
  for (const auto& [index, ref] : members(keys, keys.root())) {
    const std::string& key = keys.at(ref).text;
    uint64_t count = 0, bytes = 0;
    FT_CHECK(at <= file_.size() && file_.size() - at >= sizeof(count),
             "{}: the file ends before storage '{}'; it is truncated: copy or write it again", path,
             key);
    file_.read(&count, sizeof(count), at, "a storage's size");
    at += sizeof(count);
    FT_CHECK(
        !__builtin_mul_overflow(count, element_sizes[key], &bytes) && bytes <= file_.size() - at,
        "{}: the file ends inside storage '{}'; it is truncated: copy or write it again", path,
        key);
    storages_[key] = {at, bytes, 0};
    at += bytes;
  }
}

void PthFile::collect(const Pickle& pickle) {
  const std::string path = file_.path().string();
  const TensorReader reader(pickle, path);
  struct Open {
    std::string name;
    Ref ref;
    int depth;
  };
  std::vector<Open> open{{"", pickle.root(), 0}};
  std::vector<bool> seen(pickle.size(), false);  // tables may be shared and contain each other
  while (!open.empty()) {
    Open here = std::move(open.back());
    open.pop_back();
    here.ref = untagged(pickle, here.ref);
    if (const auto call = reader.tensor(here.ref, here.name)) {
      add(here.name.empty() ? "tensor" : here.name, {call->dtype, call->sizes},
          {call->storage, call->offset, call->strides});
      continue;
    }
    if (seen[here.ref]) continue;
    seen[here.ref] = true;
    const auto inside = members(pickle, here.ref);
    for (auto member = inside.rbegin(); member != inside.rend(); ++member) {
      if (member->first.empty()) continue;
      FT_CHECK(here.depth < kMaxDepth && here.name.size() + member->first.size() < kMaxName,
               "{}: not a sound .pth file: its tables are nested more than {} deep, or a name has "
               "more than {} letters",
               path, kMaxDepth, kMaxName);
      open.push_back({here.name.empty() ? member->first : here.name + "." + member->first,
                      member->second, here.depth + 1});
    }
  }
  FT_CHECK(!tensors_.empty(), "{}: this .pth file holds no tensors in dicts or lists", path);
}

void PthFile::add(const std::string& name, WeightInfo info, Placed place) {
  FT_CHECK(!tensors_.contains(name), "{}: two tensors are named '{}'", file_.path().string(), name);
  check_bounds(name, info, place);
  tensors_.emplace(name, std::move(info));
  placed_.emplace(name, std::move(place));
}

void PthFile::check_bounds(const std::string& name, const WeightInfo& info,
                           const Placed& place) const {
  const auto fail = [&](const std::string& problem) {
    FT_FAIL("{}: not a sound .pth file: tensor '{}': {}", file_.path().string(), name, problem);
  };
  const auto storage = storages_.find(place.storage);
  if (storage == storages_.end()) fail(fmt::format("the file has no storage '{}'", place.storage));
  const auto capacity = static_cast<int64_t>(storage->second.bytes / c10::elementSize(info.dtype));
  if (info.shape.size() != place.strides.size()) fail("it has other sizes than strides");
  int64_t last = place.offset, elements = 1;
  for (size_t i = 0; i < info.shape.size(); ++i) {
    const int64_t size = info.shape[i], stride = place.strides[i];
    int64_t reach = 0;
    if (size < 0 || stride < 0 || __builtin_mul_overflow(elements, size, &elements) ||
        __builtin_mul_overflow(std::max<int64_t>(size - 1, 0), stride, &reach) ||
        __builtin_add_overflow(last, reach, &last))
      fail("its sizes are no sizes");
  }
  if (place.offset < 0 || (elements > 0 && last >= capacity))
    fail(fmt::format("it reaches to element {}, its storage has {} (truncated?)", last, capacity));
  if (elements > std::max(capacity, kMaxRepeated))
    fail(fmt::format("it repeats {} stored elements to {}", capacity, elements));
}

at::Tensor PthFile::read(const std::string& name) const {
  const auto found = tensors_.find(name);
  FT_CHECK(found != tensors_.end(), "{}: no tensor '{}' among {}", file_.path().string(), name,
           tensors_.size());
  const auto& place = placed_.at(name);
  const Storage& storage = storages_.at(place.storage);
  if (!kept_.defined() || kept_name_ != place.storage) {
    kept_ = at::Tensor();  // before the next is made
    const std::string what = "tensor '" + name + "'";
    auto bytes = at::empty({static_cast<int64_t>(storage.bytes)}, at::kByte);
    file_.read(bytes.mutable_data_ptr(), storage.bytes, storage.begin, what);
    check_crc(bytes.const_data_ptr(), storage.bytes, storage.crc,
              file_.path().string() + ": " + what);
    kept_ = bytes;
    kept_name_ = place.storage;
  }
  const auto dtype = found->second.dtype;
  const auto whole = kept_.nbytes() / c10::elementSize(dtype) * c10::elementSize(dtype);
  return kept_.narrow(0, 0, static_cast<int64_t>(whole))
      .view(dtype)
      .as_strided(found->second.shape, place.strides, place.offset)
      .clone(at::MemoryFormat::Contiguous);
}

}  // namespace facetrain
