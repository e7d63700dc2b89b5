#include "core/safetensors.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string_view>

#include "core/check.h"
#include "core/config.h"
#include "core/durable_file.h"

namespace facetrain {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

using Json = nlohmann::ordered_json;
constexpr uint64_t kAlignment = 64;
constexpr uint64_t kMaxHeader = 100'000'000;  // the limit of the public reader

struct DtypeName {
  at::ScalarType dtype;
  std::string_view name;
};
constexpr std::array kDtypes{
    DtypeName{at::kFloat, "F32"},     DtypeName{at::kDouble, "F64"}, DtypeName{at::kHalf, "F16"},
    DtypeName{at::kBFloat16, "BF16"}, DtypeName{at::kLong, "I64"},   DtypeName{at::kInt, "I32"},
    DtypeName{at::kShort, "I16"},     DtypeName{at::kChar, "I8"},    DtypeName{at::kByte, "U8"},
    DtypeName{at::kBool, "BOOL"},     DtypeName{at::kUInt16, "U16"}, DtypeName{at::kUInt32, "U32"},
    DtypeName{at::kUInt64, "U64"}};

std::string dtype_name(at::ScalarType dtype, const std::string& tensor) {
  for (const auto& entry : kDtypes)
    if (entry.dtype == dtype) return std::string(entry.name);
  FT_FAIL("tensor '{}': type {} cannot be kept in a safetensors file", tensor, at::toString(dtype));
}

std::optional<at::ScalarType> dtype_of(std::string_view name) {
  for (const auto& entry : kDtypes)
    if (entry.name == name) return entry.dtype;
  return std::nullopt;
}

uint64_t round_up(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::string to_json(const Json& header) {
  try {
    return header.dump();
  } catch (const Json::exception& error) {  // JSON takes UTF-8 only
    FT_FAIL("a tensor's name or the metadata cannot be written: {}", error.what());
  }
}

// The header's length, the JSON and its padding, as one block. Tensors follow each other without
// gaps, as the public reader demands.
std::string header_block(const NamedTensors& tensors, const Metadata& metadata) {
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    FT_CHECK(tensor.defined(), "tensor '{}' is undefined and cannot be written", name);
    FT_CHECK(name != "__metadata__" && !header.contains(name),
             "two tensors are named '{}': every name must be different", name);
    const uint64_t end = offset + tensor.nbytes();
    header[name] = {{"dtype", dtype_name(tensor.scalar_type(), name)},
                    {"shape", tensor.sizes().vec()},
                    {"data_offsets", {offset, end}}};
    offset = end;
  }
  const std::string json = to_json(header);
  const uint64_t length = round_up(sizeof(uint64_t) + json.size()) - sizeof(uint64_t);
  FT_CHECK(length <= kMaxHeader, "{} tensors need a header of {} bytes; readers accept {}",
           tensors.size(), length, kMaxHeader);
  std::string block(sizeof(length), '\0');
  std::memcpy(block.data(), &length, sizeof(length));
  block += json;
  block.resize(sizeof(length) + length, ' ');
  return block;
}

// What a foreign header may say and still be wrong, in one place: every number is checked before it
// is used.
class HeaderParser {
 public:
  HeaderParser(const std::filesystem::path& path, uint64_t data_begin, uint64_t file_size)
      : path_(path), data_begin_(data_begin), data_size_(file_size - data_begin) {}

  TensorInfo tensor(const std::string& name, const Json& entry) const {
    require(entry.is_object() && entry.contains("dtype") && entry.contains("shape") &&
                entry.contains("data_offsets"),
            name, "wanted dtype, shape and data_offsets");
    require(entry["dtype"].is_string(), name, "dtype is no text");
    const std::string dtype = entry["dtype"];
    const auto type = dtype_of(dtype);
    require(type.has_value(), name, fmt::format("type '{}' is not known to this reader", dtype));
    TensorInfo info{*type, shape(name, entry["shape"]), 0, 0};
    const Json& range = entry["data_offsets"];
    require(range.is_array() && range.size() == 2 && range[0].is_number_unsigned() &&
                range[1].is_number_unsigned(),
            name, "data_offsets are not two counts of bytes");
    const uint64_t begin = range[0], end = range[1];
    require(begin <= end && end <= data_size_, name,
            fmt::format("its bytes {} ... {} are outside the {} that the file holds (truncated?)",
                        begin, end, data_size_));
    require(bytes(name, info) == end - begin, name,
            fmt::format("its shape needs {} bytes, its offsets hold {}", bytes(name, info),
                        end - begin));
    info.begin = data_begin_ + begin;
    info.end = data_begin_ + end;
    return info;
  }

  Metadata metadata(const Json& entry) const {
    require(entry.is_object(), "__metadata__", "wanted names and texts");
    Metadata result;
    for (const auto& [key, value] : entry.items()) {
      require(value.is_string(), "__metadata__", fmt::format("'{}' is no text", key));
      result[key] = value;
    }
    return result;
  }

  void check_disjoint(const std::map<std::string, TensorInfo>& tensors) const {
    std::vector<std::pair<const TensorInfo*, const std::string*>> order;
    for (const auto& [name, info] : tensors)
      if (info.begin < info.end) order.emplace_back(&info, &name);
    std::sort(order.begin(), order.end(),
              [](const auto& a, const auto& b) { return a.first->begin < b.first->begin; });
    for (size_t i = 1; i < order.size(); ++i)
      require(order[i - 1].first->end <= order[i].first->begin, *order[i].second,
              fmt::format("its bytes overlap those of '{}'", *order[i - 1].second));
  }

 private:
  std::vector<int64_t> shape(const std::string& name, const Json& sizes) const {
    require(sizes.is_array() && sizes.size() <= 64, name, "shape is no list of sizes");
    std::vector<int64_t> result;
    for (const auto& size : sizes) {
      require(size.is_number_unsigned() &&
                  size.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()},
              name, "shape holds something that is no size");
      result.push_back(size);
    }
    return result;
  }

  uint64_t bytes(const std::string& name, const TensorInfo& info) const {
    uint64_t total = c10::elementSize(info.dtype);
    for (const int64_t size : info.shape)
      require(!__builtin_mul_overflow(total, static_cast<uint64_t>(size), &total), name,
              "its shape is too large for any memory");
    return total;
  }

  void require(bool ok, const std::string& name, const std::string& problem) const {
    FT_CHECK(ok, "{}: not a sound safetensors file: tensor '{}': {}", path_.string(), name,
             problem);
  }
  const std::filesystem::path& path_;
  uint64_t data_begin_, data_size_;
};

// Parses the JSON and refuses a key that stands twice, which the library would silently overwrite.
Json parse_header(const std::string& text, const std::filesystem::path& path) {
  std::set<std::string> seen;
  bool twice = false;
  const auto watch = [&](int depth, nlohmann::detail::parse_event_t event, Json& value) {
    if (event == nlohmann::detail::parse_event_t::key && depth == 1)
      twice |= !seen.insert(value.get<std::string>()).second;
    return true;
  };
  Json header = Json::parse(text, watch, /*allow_exceptions=*/false);
  FT_CHECK(header.is_object() && !twice,
           "{}: not a safetensors file: its header is no JSON object of different names",
           path.string());
  return header;
}

}  // namespace

void save_safetensors(const std::filesystem::path& file, const NamedTensors& tensors,
                      const Metadata& metadata) {
  const std::string header = header_block(tensors, metadata);
  DurableFile out(file);
  out.write(header.data(), header.size(), 0);
  uint64_t offset = header.size();
  for (const auto& [name, tensor] : tensors) {
    // One tensor at a time: no copy for contiguous host memory, one tensor's copy for everything
    // else.
    const auto host = tensor.detach().to(at::kCPU).contiguous();
    out.write(host.const_data_ptr(), host.nbytes(), offset);
    offset += host.nbytes();
  }
  out.publish();
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : file_(path, "safetensors file") {
  uint64_t length = 0;
  file_.read(&length, sizeof(length), 0, "its first 8 bytes");
  FT_CHECK(length <= kMaxHeader, "{}: not a safetensors file: a header of {} bytes is not possible",
           path.string(), length);
  FT_CHECK(length <= file_.size() - sizeof(length),
           "{}: the header should have {} bytes, the whole file has {}; it is truncated or no "
           "safetensors file",
           path.string(), length, file_.size());
  const std::string text = file_.read(length, sizeof(length), "its header");

  const HeaderParser parser(path, sizeof(length) + length, file_.size());
  const Json header = parse_header(text, path);
  for (const auto& [name, entry] : header.items())
    if (name == "__metadata__")
      metadata_ = parser.metadata(entry);
    else
      tensors_.emplace(name, parser.tensor(name, entry));
  parser.check_disjoint(tensors_);
}

const TensorInfo& SafetensorsFile::info(const std::string& name) const {
  if (const auto found = tensors_.find(name); found != tensors_.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [known, info] : tensors_) names.push_back(known);
  const std::string guess = config_detail::nearest(name, names);
  FT_FAIL("{}: no tensor '{}' among {}{}", path().string(), name, names.size(),
          guess.empty() ? "" : fmt::format("; the nearest name is '{}'", guess));
}

at::Tensor SafetensorsFile::read(const std::string& name) const {
  const TensorInfo& entry = info(name);
  const auto tensor = at::empty(entry.shape, entry.dtype);
  file_.read(tensor.mutable_data_ptr(), entry.end - entry.begin, entry.begin,
             "tensor '" + name + "'");
  return tensor;
}

at::Tensor SafetensorsFile::read_rows(const std::string& name, int64_t begin, int64_t end) const {
  const TensorInfo& entry = info(name);
  FT_CHECK(!entry.shape.empty() && begin >= 0 && begin <= end && end <= entry.shape[0],
           "{}: tensor '{}' of shape [{}] has no rows {} ... {}", path().string(), name,
           fmt::join(entry.shape, ", "), begin, end);
  auto shape = entry.shape;
  const uint64_t row_bytes =
      shape[0] == 0 ? 0 : (entry.end - entry.begin) / static_cast<uint64_t>(shape[0]);
  shape[0] = end - begin;
  const auto tensor = at::empty(shape, entry.dtype);
  file_.read(tensor.mutable_data_ptr(), row_bytes * static_cast<uint64_t>(end - begin),
             entry.begin + row_bytes * static_cast<uint64_t>(begin),
             fmt::format("rows {} ... {} of tensor '{}'", begin, end, name));
  return tensor;
}

}  // namespace facetrain
