#include "comm/deadline.h"

#include <algorithm>
#include <cstdlib>

#include "core/check.h"

namespace facetrain {
namespace {

constexpr std::chrono::milliseconds kDefault = std::chrono::minutes(30);
constexpr std::chrono::milliseconds kAfterSignal = std::chrono::seconds(5);

// Nanoseconds of the steady clock; 0: not shortened; kWhole: never again. A lock-free atomic may be
// written by a signal handler.
constexpr int64_t kWhole = -1;
std::atomic<int64_t> shortened_at{0};
static_assert(std::atomic<int64_t>::is_always_lock_free);

}  // namespace

std::chrono::milliseconds default_deadline() {
  const char* text = std::getenv("FACETRAIN_DEADLINE_SECONDS");
  if (text == nullptr || *text == '\0') return kDefault;
  char* end = nullptr;
  const double seconds = std::strtod(text, &end);
  FT_CHECK(*end == '\0' && seconds > 0 && seconds < 1e9,
           "FACETRAIN_DEADLINE_SECONDS wants a positive number of seconds, found '{}'", text);
  return std::chrono::milliseconds(std::max<int64_t>(1, static_cast<int64_t>(seconds * 1000)));
}

void shorten_all_deadlines() noexcept {
  int64_t expected = 0;
  shortened_at.compare_exchange_strong(expected, Clock::now().time_since_epoch().count());
}

void restore_all_deadlines() noexcept { shortened_at = kWhole; }

std::optional<Clock::time_point> deadlines_shortened_at() {
  const int64_t at = shortened_at.load();
  if (at == 0 || at == kWhole) return std::nullopt;
  return Clock::time_point(Clock::duration(at));
}

bool deadline_passed(Clock::time_point start, std::chrono::milliseconds limit) {
  const auto now = Clock::now();
  if (now - start > limit) return true;
  const auto signal = deadlines_shortened_at();
  return signal && now - std::max(start, *signal) > kAfterSignal;
}

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

}  // namespace facetrain
