#include "core/pickle.h"

#include <bit>
#include <cstring>
#include <unordered_map>

#include "core/check.h"

namespace facetrain {
namespace {

// Opcodes of protocols 2 to 5 (Python's Lib/pickletools.py describes each).
enum Op : uint8_t {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kDup = '2',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersistent = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kInst = 'i',
  kLongBinGet = 'j',
  kEmptyList = ']',
  kObj = 'o',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kEmptyTuple = ')',
  kSetItems = 'u',
  kEmptyDict = '}',
  kBinBytes = 'B',
  kShortBinBytes = 'C',
  kProto = 0x80,
  kNewObj = 0x81,
  kExt1 = 0x82,
  kExt2 = 0x83,
  kExt4 = 0x84,
  kTuple1 = 0x85,
  kTuple2 = 0x86,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kBinBytes8 = 0x8e,
  kEmptySet = 0x8f,
  kAddItems = 0x90,
  kFrozenSet = 0x91,
  kNewObjEx = 0x92,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
  kByteArray8 = 0x96,
  kNextBuffer = 0x97,
  kReadOnlyBuffer = 0x98,
};

}  // namespace

// The stack machine. Each group of opcodes is one function, which says whether the opcode was its.
class Pickle::Machine {
 public:
  Machine(Pickle& pickle, std::string_view bytes, const std::string& where, const Rule& rule)
      : values_(pickle.values_), bytes_(bytes), where_(where), rule_(rule) {}

  Ref run() {
    for (;;) {
      start_ = at_;
      const auto op = take<uint8_t>();
      if (op == kStop) break;
      if (!number(op) && !text(op) && !container(op) && !memory(op) && !object(op)) unknown(op);
    }
    return pop();
  }
  size_t consumed() const { return at_; }

 private:
  [[noreturn]] void fail(const std::string& problem) const {
    FT_FAIL("{}: not a sound pickle: {} (opcode at byte {})", where_, problem, start_);
  }
  [[noreturn]] void unknown(uint8_t op) const {
    if (std::strchr("FILSVPdglp", op) != nullptr && op != 0)
      fail(fmt::format("opcode '{}' belongs to protocols 0 and 1, in which no weights are saved",
                       static_cast<char>(op)));
    if (op == kExt1 || op == kExt2 || op == kExt4)
      fail("it asks for a name of Python's extension registry, which is not in the file");
    if (op == kNextBuffer || op == kReadOnlyBuffer) fail("it refers to a buffer outside the file");
    fail(fmt::format("{:#04x} is no opcode", op));
  }

  std::string_view view(uint64_t count) {
    if (count > bytes_.size() - at_) fail("it ends inside a value; the file is truncated");
    const auto part = bytes_.substr(at_, count);
    at_ += count;
    return part;
  }
  template <class T>
  T take() {
    T value;
    std::memcpy(&value, view(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::string line() {
    const size_t end = bytes_.find('\n', at_);
    if (end == std::string_view::npos) fail("a name has no end");
    std::string text(view(end - at_));
    ++at_;
    return text;
  }

  // ---- the stack --------------------------------------------------------------------------------
  Ref make(Value value) {
    if (values_.size() >= kMaxValues) fail(fmt::format("it has more than {} values", kMaxValues));
    values_.push_back(std::move(value));
    return static_cast<Ref>(values_.size() - 1);
  }
  bool push(Value value) {
    stack_.push_back(make(std::move(value)));
    return true;
  }
  bool push_again(Ref ref) {
    if (stack_.size() >= kMaxValues) fail("its stack has too many values");
    stack_.push_back(ref);
    return true;
  }
  bool push_text(Kind kind, std::string_view text) {
    return push({.kind = kind, .text = std::string(text)});
  }
  bool push_integer(Kind kind, int64_t integer) { return push({.kind = kind, .integer = integer}); }
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  Ref top() const {
    if (stack_.size() <= floor()) fail("it takes a value from an empty stack");
    return stack_.back();
  }
  Ref pop() {
    const Ref ref = top();
    stack_.pop_back();
    return ref;
  }
  std::vector<Ref> pop_to_mark() {
    if (marks_.empty()) fail("it takes values without a mark");
    const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
    std::vector<Ref> items(first, stack_.end());
    stack_.erase(first, stack_.end());
    marks_.pop_back();
    return items;
  }
  void append(Ref to, const std::vector<Ref>& items, bool pairs) {
    Value& value = values_[to];
    const bool call = value.kind == Kind::kCall;
    const bool fits =
        pairs ? value.kind == Kind::kDict : value.kind == Kind::kList || value.kind == Kind::kSet;
    if (!call && !fits) fail("it fills something that is no container");
    if (pairs && items.size() % 2 != 0) fail("a key has no value");
    value.items.insert(value.items.end(), items.begin(), items.end());
  }

  // ---- opcodes ----------------------------------------------------------------------------------
  bool number(uint8_t op) {
    switch (op) {
      case kNone:
        return push({});
      case kNewTrue:
      case kNewFalse:
        return push_integer(Kind::kBool, op == kNewTrue);
      case kBinInt:
        return push_integer(Kind::kInteger, take<int32_t>());
      case kBinInt1:
        return push_integer(Kind::kInteger, take<uint8_t>());
      case kBinInt2:
        return push_integer(Kind::kInteger, take<uint16_t>());
      case kLong1:
        return long_integer(view(take<uint8_t>()));
      case kLong4:
        return long_integer(view(take<uint32_t>()));
      case kBinFloat: {  // big-endian, unlike everything else
        const uint64_t bits = __builtin_bswap64(take<uint64_t>());
        return push({.kind = Kind::kReal, .real = std::bit_cast<double>(bits)});
      }
    }
    return false;
  }
  // Two's complement, little-endian, of any length.
  bool long_integer(std::string_view bytes) {
    if (bytes.size() > sizeof(int64_t)) return push_text(Kind::kBytes, bytes);
    const bool negative = !bytes.empty() && (bytes.back() & 0x80) != 0;
    uint64_t value = negative ? ~uint64_t{0} : 0;
    std::memcpy(&value, bytes.data(), bytes.size());
    return push_integer(Kind::kInteger, static_cast<int64_t>(value));
  }

  bool text(uint8_t op) {
    switch (op) {
      case kShortBinUnicode:
        return push_text(Kind::kText, view(take<uint8_t>()));
      case kBinUnicode:
        return push_text(Kind::kText, view(take<uint32_t>()));
      case kBinUnicode8:
        return push_text(Kind::kText, view(take<uint64_t>()));
      case kShortBinString:  // Python 2's str: names of tensors are such
        return push_text(Kind::kText, view(take<uint8_t>()));
      case kBinString:
        return push_text(Kind::kText, view(take<uint32_t>()));
      case kShortBinBytes:
        return push_text(Kind::kBytes, view(take<uint8_t>()));
      case kBinBytes:
        return push_text(Kind::kBytes, view(take<uint32_t>()));
      case kBinBytes8:
      case kByteArray8:
        return push_text(Kind::kBytes, view(take<uint64_t>()));
    }
    return false;
  }

  bool container(uint8_t op) {
    switch (op) {
      case kEmptyList:
        return push({.kind = Kind::kList});
      case kEmptyDict:
        return push({.kind = Kind::kDict});
      case kEmptySet:
        return push({.kind = Kind::kSet});
      case kEmptyTuple:
        return push({.kind = Kind::kTuple});
      case kTuple1:
      case kTuple2:
      case kTuple3: {
        std::vector<Ref> items(op - kTuple1 + 1);
        for (size_t i = items.size(); i-- > 0;) items[i] = pop();
        return push({.kind = Kind::kTuple, .items = std::move(items)});
      }
      case kTuple:
        return push({.kind = Kind::kTuple, .items = pop_to_mark()});
      case kFrozenSet:
        return push({.kind = Kind::kSet, .items = pop_to_mark()});
      case kAppend:
      case kSetItem: {
        std::vector<Ref> items(op == kSetItem ? 2 : 1);
        for (size_t i = items.size(); i-- > 0;) items[i] = pop();
        append(top(), items, op == kSetItem);
        return true;
      }
      case kAppends:
      case kAddItems:
      case kSetItems: {
        const auto items = pop_to_mark();
        append(top(), items, op == kSetItems);
        return true;
      }
    }
    return false;
  }

  bool memory(uint8_t op) {
    switch (op) {
      case kMark:
        marks_.push_back(stack_.size());
        return true;
      case kPop:
        if (stack_.size() == floor() && !marks_.empty())
          marks_.pop_back();
        else
          pop();
        return true;
      case kPopMark:
        pop_to_mark();
        return true;
      case kDup:
        return push_again(top());
      case kBinPut:
        return remember(take<uint8_t>());
      case kLongBinPut:
        return remember(take<uint32_t>());
      case kMemoize:
        return remember(static_cast<uint32_t>(memo_.size()));
      case kBinGet:
        return recall(take<uint8_t>());
      case kLongBinGet:
        return recall(take<uint32_t>());
      case kProto:
        if (const auto protocol = take<uint8_t>(); protocol < 2 || protocol > 5)
          fail(fmt::format("it is of protocol {}; known are 2 to 5", protocol));
        return true;
      case kFrame:
        if (take<uint64_t>() > bytes_.size() - at_) fail("a frame ends behind the file");
        return true;
    }
    return false;
  }
  bool remember(uint32_t index) {
    memo_[index] = top();
    return true;
  }
  bool recall(uint32_t index) {
    const auto found = memo_.find(index);
    if (found == memo_.end()) fail(fmt::format("it recalls value {}, which it never kept", index));
    return push_again(found->second);
  }

  bool object(uint8_t op) {
    switch (op) {
      case kGlobal: {
        const std::string module = line();
        return global(module, line());
      }
      case kStackGlobal: {
        const Ref name = pop(), module = pop();
        if (values_[name].kind != Kind::kText || values_[module].kind != Kind::kText)
          fail("a name is no text");
        return global(values_[module].text, values_[name].text);
      }
      case kInst: {
        const std::string module = line();
        global(module, line());
        const Ref callee = pop();
        return call(callee, make({.kind = Kind::kTuple, .items = pop_to_mark()}));
      }
      case kObj: {
        auto items = pop_to_mark();
        if (items.empty()) fail("it makes an object of nothing");
        const Ref callee = items.front();
        items.erase(items.begin());
        return call(callee, make({.kind = Kind::kTuple, .items = std::move(items)}));
      }
      case kNewObjEx:  // the keyword arguments are dropped
        pop();
        [[fallthrough]];
      case kNewObj:
      case kReduce: {
        const Ref arguments = pop();
        return call(pop(), arguments);
      }
      case kBuild:  // an object's attributes: no tensor of a table is one
        pop();
        static_cast<void>(top());
        return true;
      case kBinPersistent:
        return push({.kind = Kind::kPersistent, .arguments = pop()});
    }
    return false;
  }
  bool global(const std::string& module, const std::string& name) {
    const std::string full = module + "." + name;
    rule_(full);
    return push_text(Kind::kGlobal, full);
  }
  bool call(Ref callee, Ref arguments) {
    if (values_[callee].kind != Kind::kGlobal && values_[callee].kind != Kind::kCall)
      fail("it calls something that is no name");
    if (values_[arguments].kind != Kind::kTuple) fail("the arguments of a call are no tuple");
    return push({.kind = Kind::kCall, .callee = callee, .arguments = arguments});
  }

  std::vector<Value>& values_;
  std::string_view bytes_;
  const std::string& where_;
  const Rule& rule_;
  size_t at_ = 0, start_ = 0;
  std::vector<Ref> stack_;
  std::vector<size_t> marks_;
  std::unordered_map<uint32_t, Ref> memo_;
};

Pickle::Pickle(std::string_view bytes, const std::string& where, const Rule& rule) {
  Machine machine(*this, bytes, where, rule);
  root_ = machine.run();
  bytes_ = machine.consumed();
}

const std::string& Pickle::called(Ref ref) const {
  static const std::string nothing;
  if (!is(ref, Kind::kCall) || !is(at(ref).callee, Kind::kGlobal)) return nothing;
  return at(at(ref).callee).text;
}

}  // namespace facetrain
