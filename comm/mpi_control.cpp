#include "comm/mpi_control.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <thread>

#include "comm/communicator.h"
#include "comm/deadline.h"
#include "core/check.h"

namespace facetrain {
namespace {

constexpr int kTag = 1;
constexpr auto kPause = std::chrono::milliseconds(1);
// Long enough for an idle rank's poll (50 ms), so that of ranks that fail together only the lowest
// prints.
constexpr auto kHearOthers = std::chrono::milliseconds(120);
// Time for the message to reach the ranks before MPI_Abort ends them.
constexpr auto kLetItArrive = std::chrono::milliseconds(60);
// A rank told to leave gives the failing one this long to end the job with its exit code.
constexpr auto kQuiet = std::chrono::milliseconds(1500);
constexpr auto kLastResort = std::chrono::milliseconds(3000);

}  // namespace

void exit_after(std::chrono::milliseconds delay, int exit_code) {
  std::thread([delay, exit_code] {
    std::this_thread::sleep_for(delay);
    _exit(exit_code);
  }).detach();
}

MpiControl::MpiControl(MPI_Comm world) {
  FT_CHECK(MPI_Comm_dup(world, &comm_) == MPI_SUCCESS, "MPI_Comm_dup failed");
  MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
}

void MpiControl::free() {
  for (Outgoing& out : outgoing_) MPI_Wait(&out.request, MPI_STATUS_IGNORE);
  outgoing_.clear();
  MPI_Comm_free(&comm_);
}

// ---- messages
// -----------------------------------------------------------------------------------------------------------
void MpiControl::send(int to, Type type, int code, const std::string& text) {
  outgoing_.remove_if([](Outgoing& out) {
    int done = 0;
    MPI_Test(&out.request, &done, MPI_STATUS_IGNORE);
    return done != 0;
  });
  Outgoing& out = outgoing_.emplace_back();
  out.message = {.type = type, .rank = rank_, .code = code, .text = {}};
  std::strncpy(out.message.text, text.c_str(), sizeof(out.message.text) - 1);
  MPI_Isend(&out.message, sizeof(Message), MPI_BYTE, to, kTag, comm_, &out.request);
}

void MpiControl::send_all(Type type, int code) {
  for (int r = 0; r < size_; ++r) {
    if (r != rank_) send(r, type, code, "");
  }
}

bool MpiControl::receive(Message& message) {
  int there = 0;
  MPI_Status status;
  if (MPI_Iprobe(MPI_ANY_SOURCE, kTag, comm_, &there, &status) != MPI_SUCCESS || !there)
    return false;
  return MPI_Recv(&message, sizeof(Message), MPI_BYTE, status.MPI_SOURCE, kTag, comm_,
                  MPI_STATUS_IGNORE) == MPI_SUCCESS;
}

void MpiControl::handle(const Message& message) {
  switch (message.type) {
    case Type::kWhere:
      return send(message.rank, Type::kHere, 0, position_);
    case Type::kHere:
      if (message.rank < std::ssize(answers_)) answers_[message.rank] = message.text;
      return;
    case Type::kLeaving:
      if (!leaving_) leave_quietly(message.code);
      if (lowest_leaving_ < 0 || message.rank < lowest_leaving_) lowest_leaving_ = message.rank;
      return;
  }
}

void MpiControl::poll() {
  Message message;
  while (receive(message)) handle(message);
  if (!leaving_ && leave_requested_.exchange(false)) {
    std::unique_lock lock(request_mutex_);
    const int code = requested_code_;
    const auto text = requested_message_;
    lock.unlock();
    leave(code, text);
  }
}

std::string MpiControl::ask_positions(std::chrono::milliseconds limit) {
  answers_.assign(size_, "");
  answers_[rank_] = position_;
  send_all(Type::kWhere, 0);
  const auto start = Clock::now();
  const auto all_here = [&] {
    return std::ranges::none_of(answers_, [](const auto& a) { return a.empty(); });
  };
  while (!all_here() && Clock::now() - start < limit) {
    poll();
    std::this_thread::sleep_for(kPause);
  }
  std::string lines;
  silent_.clear();
  for (int r = 0; r < size_; ++r) {
    if (answers_[r].empty()) silent_.push_back(r);
    if (answers_[r] == position_) continue;
    lines += fmt::format("{}rank {} {}", lines.empty() ? "" : "; ", r,
                         answers_[r].empty() ? "does not answer" : "is " + answers_[r]);
  }
  return lines;
}

// ---- the way out
// ----------------------------------------------------------------------------------------------------------
void MpiControl::leave_quietly(int exit_code) {
  // mpirun's SIGTERM, which follows the failing rank's MPI_Abort, should end this process at once.
  std::signal(SIGTERM, SIG_DFL);
  std::this_thread::sleep_for(kQuiet);
  _exit(exit_code);
}

void MpiControl::leave(int exit_code, const std::optional<std::string>& message) {
  leaving_ = true;
  exit_after(kLastResort, exit_code);
  send_all(Type::kLeaving, exit_code);
  const auto start = Clock::now();
  const auto progress_until = [&](std::chrono::milliseconds limit) {
    while (size_ > 1 && Clock::now() - start < limit) {
      poll();
      std::this_thread::sleep_for(kPause);
    }
  };
  if (message) {
    progress_until(kHearOthers);
    if (lowest_leaving_ >= 0 && lowest_leaving_ < rank_) leave_quietly(exit_code);
    std::fflush(stdout);
    std::fputs((*message + "\n").c_str(), stderr);
    std::fflush(stderr);
  }
  progress_until(kHearOthers + kLetItArrive);
  MPI_Abort(MPI_COMM_WORLD, exit_code);
  _exit(exit_code);
}

void MpiControl::request_leave(int exit_code, std::optional<std::string> message) {
  {
    const std::lock_guard lock(request_mutex_);
    if (leave_requested_) return;
    requested_code_ = exit_code;
    requested_message_ = std::move(message);
  }
  leave_requested_ = true;
}

}  // namespace facetrain
