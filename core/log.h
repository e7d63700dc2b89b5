// Lines for people. Information is printed by rank 0 alone on standard output; warnings by every
// rank, with its number, on standard error. A progress line on a terminal is cleared before
// anything else is printed.
#pragma once

#include <fmt/format.h>

#include <string>

namespace facetrain {

// Called once by World; the default is rank 0 of 1. Thread ranks (ThreadComm) set their own for the
// calling thread.
void set_log_rank(int rank, int size);
void set_thread_log_rank(int rank, int size);
int log_rank();
int log_size();

void log_line(const std::string& message);     // rank 0 only
void log_warning(const std::string& message);  // every rank
// Replaces the current progress line of a terminal (rank 0); nothing when standard output is not a
// terminal.
void log_progress(const std::string& line);
bool log_is_terminal();

template <class... Args>
void log_info(fmt::format_string<Args...> format, Args&&... args) {
  if (log_rank() == 0) log_line(fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warn(fmt::format_string<Args...> format, Args&&... args) {
  log_warning(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace facetrain
