// Small messages beside the collectives: who failed, who is where. The way out of a job with one
// message.
//
// Owned and called by the communication thread alone, except request_leave(). Messages travel on a
// communicator of their own; none is ever waited for without a limit, so a dead rank cannot block
// the way out.
#pragma once

#include <mpi.h>

#include <atomic>
#include <chrono>
#include <list>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace facetrain {

class MpiControl {
 public:
  // **Collective.** Duplicates `world`.
  explicit MpiControl(MPI_Comm world);
  // **Collective.**
  void free();

  // Takes what has arrived: answers questions, leaves the process when another rank has failed or
  // when asked to.
  void poll();
  // What other ranks are told when they ask: "in all_reduce #12 of ...", "idle after ...".
  void set_position(const std::string& position) { position_ = position; }

  // Asks every rank where it is and waits for the answers, at most `limit`. One line a rank that is
  // not where this one is: "rank 2 is idle after barrier #11 ..."; a rank without an answer "does
  // not answer".
  std::string ask_positions(std::chrono::milliseconds limit);
  // Ranks that have not answered the last question.
  const std::vector<int>& silent_ranks() const { return silent_; }

  // Leaves the job: all ranks are told, then MPI_Abort. With a message, it is printed unless a
  // lower rank leaves at the same time with one of its own. Without, it has been printed. Never
  // returns.
  [[noreturn]] void leave(int exit_code, const std::optional<std::string>& message);
  // The same from any other thread; the communication thread does it at its next poll().
  void request_leave(int exit_code, std::optional<std::string> message);

 private:
  enum class Type : int { kLeaving, kWhere, kHere };
  struct Message {
    Type type;
    int rank, code;
    char text[240];
  };
  struct Outgoing {
    Message message;
    MPI_Request request = MPI_REQUEST_NULL;
  };
  void send(int to, Type type, int code, const std::string& text);
  void send_all(Type type, int code);
  bool receive(Message& message);
  void handle(const Message& message);
  [[noreturn]] void leave_quietly(int exit_code);

  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  bool leaving_ = false;
  int lowest_leaving_ = -1;  // rank of another that leaves too
  std::string position_ = "idle, before its first collective";
  std::list<Outgoing> outgoing_;
  std::vector<std::string> answers_;
  std::vector<int> silent_;

  std::atomic<bool> leave_requested_{false};
  std::mutex request_mutex_;
  int requested_code_ = 1;
  std::optional<std::string> requested_message_;
};

// Ends the process with `exit_code` after `delay`, whatever else hangs.
void exit_after(std::chrono::milliseconds delay, int exit_code);

}  // namespace facetrain
