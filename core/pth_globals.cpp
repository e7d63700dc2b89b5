#include "core/pth_globals.h"

#include <algorithm>
#include <array>
#include <string_view>

#include "core/check.h"

namespace facetrain {
namespace {

struct Named {
  std::string_view name;
  at::ScalarType dtype;
};
constexpr std::array kStorages{
    Named{"torch.FloatStorage", at::kFloat},         Named{"torch.DoubleStorage", at::kDouble},
    Named{"torch.HalfStorage", at::kHalf},           Named{"torch.BFloat16Storage", at::kBFloat16},
    Named{"torch.LongStorage", at::kLong},           Named{"torch.IntStorage", at::kInt},
    Named{"torch.ShortStorage", at::kShort},         Named{"torch.CharStorage", at::kChar},
    Named{"torch.ByteStorage", at::kByte},           Named{"torch.BoolStorage", at::kBool},
    Named{"torch.storage.UntypedStorage", at::kByte}};
constexpr std::array kDtypes{
    Named{"torch.float32", at::kFloat}, Named{"torch.float64", at::kDouble},
    Named{"torch.float16", at::kHalf},  Named{"torch.bfloat16", at::kBFloat16},
    Named{"torch.int64", at::kLong},    Named{"torch.int32", at::kInt},
    Named{"torch.int16", at::kShort},   Named{"torch.int8", at::kChar},
    Named{"torch.uint8", at::kByte},    Named{"torch.bool", at::kBool},
    Named{"torch.uint16", at::kUInt16}, Named{"torch.uint32", at::kUInt32},
    Named{"torch.uint64", at::kUInt64}};

constexpr std::array<std::string_view, 3> kDicts{"collections.OrderedDict",
                                                 "collections.defaultdict", "collections.Counter"};

// What tensors are made of, and values that are kept as they are and never become tensors.
constexpr std::array<std::string_view, 44> kNames{
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state",
    "torch.jit._pickle.restore_type_tag",
    "torch.Size",
    "torch.device",
    "torch.serialization._get_layout",
    "argparse.Namespace",
    "types.SimpleNamespace",
    "easydict.EasyDict",
    "addict.addict.Dict",
    "yacs.config.CfgNode",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "_codecs.encode",
    "collections.deque",
    "pathlib.Path",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib.PurePosixPath",
    "pathlib.PureWindowsPath",
    "datetime.datetime",
    "datetime.date",
    "datetime.timedelta",
    "decimal.Decimal",
    "builtins.set",
    "builtins.frozenset",
    "builtins.slice",
    "builtins.range",
    "builtins.complex",
    "builtins.bytearray",
    "builtins.dict",
    "builtins.list",
    "builtins.tuple",
    "builtins.int",
    "builtins.float",
    "builtins.bool",
    "builtins.str",
};
// Packages that keep configurations and records of training, whatever the class.
constexpr std::array<std::string_view, 6> kPackages{"omegaconf.",      "pytorch_lightning.",
                                                    "lightning.",      "lightning_fabric.",
                                                    "ml_collections.", "numpy.dtypes."};

template <class Table>
std::optional<at::ScalarType> dtype_in(const Table& table, const std::string& name) {
  for (const auto& entry : table)
    if (entry.name == name) return entry.dtype;
  return std::nullopt;
}

template <class List>
bool contains(const List& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

}  // namespace

bool is_dict_class(const std::string& global) { return contains(kDicts, global); }
std::optional<at::ScalarType> storage_dtype(const std::string& global) {
  return dtype_in(kStorages, global);
}
std::optional<at::ScalarType> tensor_dtype(const std::string& global) {
  return dtype_in(kDtypes, global);
}

void check_global(const std::string& global, const std::string& file) {
  constexpr std::string_view kPython2 = "__builtin__.";
  const std::string name =
      global.starts_with(kPython2) ? "builtins." + global.substr(kPython2.size()) : global;
  if (contains(kNames, name == "builtins.xrange" ? "builtins.range" : name) ||
      is_dict_class(name) || storage_dtype(name) || tensor_dtype(name))
    return;
  if (std::any_of(kPackages.begin(), kPackages.end(),
                  [&](std::string_view package) { return name.starts_with(package); }))
    return;
  FT_FAIL(
      "{}: asks for {}: refused, nothing was executed. A file of weights holds dense tensors and "
      "plain "
      "values; this one wants a class or a function of Python. Only if you trust its maker: open "
      "it "
      "there, which runs that code, and save its tensors alone, torch.save(model.state_dict(), "
      "...)",
      file, name);
}

}  // namespace facetrain
