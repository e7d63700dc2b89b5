// How long a wait for other ranks may last: a duration of the communicator, cut short for the whole
// process by SIGTERM.
//
// A wait that began before the signal gets 5 s from the signal, one that begins later 5 s from its
// start.
#pragma once

#include <atomic>
#include <chrono>
#include <optional>

namespace facetrain {

using Clock = std::chrono::steady_clock;

// 30 minutes, or FACETRAIN_DEADLINE_SECONDS (fractions allowed; throws when it is not a positive
// number).
std::chrono::milliseconds default_deadline();

// Every wait of the process from now on lasts at most 5 s. Async-signal-safe.
void shorten_all_deadlines() noexcept;
// The other way, for good: all ranks have met after the signal, and what they do now together (the
// last checkpoint) may take its time. Later signals shorten nothing.
void restore_all_deadlines() noexcept;
// When they were shortened; nothing when they are not.
std::optional<Clock::time_point> deadlines_shortened_at();

// Whether a wait that began at `start` and may last `limit` is over.
bool deadline_passed(Clock::time_point start, std::chrono::milliseconds limit);

// "12 s" or "0.5 s": how long the wait has lasted, for messages.
double seconds_since(Clock::time_point start);

}  // namespace facetrain
