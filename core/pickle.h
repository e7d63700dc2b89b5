// Pickles of protocols 2 to 5 as data. Nothing that a pickle asks for is ever imported, called or
// built: a name is a text, a call is a node that keeps who was to be called and with what.
//
// Values lie in one table and refer to each other by index, because pickles share them and can make
// them contain themselves: neither recursion nor reference counts are needed, and memory is bounded
// by the pickle's length and kMaxValues.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace facetrain {

class Pickle {
 public:
  using Ref = uint32_t;
  static constexpr Ref kNothing = 0xffffffff;
  static constexpr size_t kMaxValues = size_t{1} << 22;

  enum class Kind : uint8_t {
    kNone,
    kBool,        // integer
    kInteger,     // integer; one of more than 64 bits is kBytes
    kReal,        // real
    kText,        // text (UTF-8 is not checked)
    kBytes,       // text
    kTuple,       // items
    kList,        // items
    kSet,         // items
    kDict,        // items: key, value, key, value ...
    kGlobal,      // text: "module.name"
    kCall,        // callee was to be called with arguments; items: what was then set or appended
    kPersistent,  // arguments: the id of an object that lies outside the pickle
  };
  struct Value {
    Kind kind = Kind::kNone;
    Ref callee = kNothing, arguments = kNothing;
    int64_t integer = 0;
    double real = 0;
    std::string text{};
    std::vector<Ref> items{};
  };
  // Sees every name "module.name" that the pickle asks for, and throws for those that it refuses.
  using Rule = std::function<void(const std::string& global)>;

  // Reads one pickle from the front of `bytes`; `where` begins every error. Throws on anything that
  // is unsound, belongs to protocols 0 and 1, or is refused by the rule.
  Pickle(std::string_view bytes, const std::string& where, const Rule& rule);

  Ref root() const { return root_; }
  const Value& at(Ref ref) const { return values_[ref]; }
  size_t size() const { return values_.size(); }
  size_t bytes() const { return bytes_; }  // that this pickle took up

  bool is(Ref ref, Kind kind) const { return ref != kNothing && at(ref).kind == kind; }
  // "module.name" when the value is a call of that name, else "".
  const std::string& called(Ref ref) const;
  // Items of a call's arguments.
  const std::vector<Ref>& arguments(Ref call) const { return at(at(call).arguments).items; }

 private:
  class Machine;
  std::vector<Value> values_;
  Ref root_ = kNothing;
  size_t bytes_ = 0;
};

}  // namespace facetrain
