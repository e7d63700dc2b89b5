#include "core/log.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>

namespace facetrain {
namespace {

thread_local int thread_rank = -1, thread_size = -1;
int process_rank = 0, process_size = 1;
std::mutex& output_mutex() {
  static std::mutex mutex;
  return mutex;
}
bool progress_shown = false;

void clear_progress() {
  if (progress_shown) std::fputs("\r\033[K", stdout);
  progress_shown = false;
}

}  // namespace

void set_log_rank(int rank, int size) {
  process_rank = rank;
  process_size = size;
}
void set_thread_log_rank(int rank, int size) {
  thread_rank = rank;
  thread_size = size;
}
int log_rank() { return thread_rank >= 0 ? thread_rank : process_rank; }
int log_size() { return thread_size >= 0 ? thread_size : process_size; }
bool log_is_terminal() {
  // mpirun gives every rank a terminal of its own, whatever stands behind mpirun: launch/mpi.sh
  // says what it is.
  static const bool terminal = [] {
    if (const char* said = std::getenv("FACETRAIN_TERMINAL")) return std::string(said) == "1";
    return std::getenv("OMPI_COMM_WORLD_SIZE") == nullptr && isatty(STDOUT_FILENO) == 1;
  }();
  return terminal;
}

// Of the terminal, for progress lines; very many where that is not known.
static size_t terminal_columns() {
  winsize size{};
  if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  const char* said = std::getenv("FACETRAIN_COLUMNS");  // launch/mpi.sh, as above
  const int columns = said == nullptr ? 0 : std::atoi(said);
  return columns > 0 ? static_cast<size_t>(columns) : 1000;
}

void log_line(const std::string& message) {
  if (log_rank() != 0) return;
  const std::lock_guard lock(output_mutex());
  clear_progress();
  std::fputs((message + "\n").c_str(), stdout);
  std::fflush(stdout);
}

void log_warning(const std::string& message) {
  const std::lock_guard lock(output_mutex());
  clear_progress();
  std::fflush(stdout);
  std::fputs((log_size() > 1 ? fmt::format("[rank {}] warning: {}\n", log_rank(), message)
                             : fmt::format("warning: {}\n", message))
                 .c_str(),
             stderr);
}

void log_progress(const std::string& line) {
  if (log_rank() != 0 || !log_is_terminal()) return;
  const std::lock_guard lock(output_mutex());
  clear_progress();
  // A line that wraps could not be taken back.
  std::fputs(line.substr(0, terminal_columns() - 1).c_str(), stdout);
  std::fflush(stdout);
  progress_shown = true;
}

}  // namespace facetrain
