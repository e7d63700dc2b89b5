// Who prints what: information by rank 0, warnings by every rank with its number.
#include "core/log.h"

#include <gtest/gtest.h>

#include <thread>

namespace facetrain {
namespace {

TEST(Log, RankZeroInformsAndEveryRankWarns) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  for (int rank = 0; rank < 3; ++rank)
    std::thread([rank] {
      set_thread_log_rank(rank, 3);
      log_info("hello from {}", log_rank());
      log_warn("careful, {} of {}", log_rank(), log_size());
    }).join();
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "hello from 0\n");
  EXPECT_EQ(testing::internal::GetCapturedStderr(),
            "[rank 0] warning: careful, 0 of 3\n[rank 1] warning: careful, 1 of 3\n"
            "[rank 2] warning: careful, 2 of 3\n");
  EXPECT_EQ(log_rank(), 0);  // other threads are untouched
  EXPECT_EQ(log_size(), 1);
}

TEST(Log, OneRankNeedsNoNumberAndAFileGetsNoProgressLine) {
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  log_warning("alone");
  if (!log_is_terminal()) log_progress("50 %");
  log_line("a line with {braces}");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "a line with {braces}\n");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "warning: alone\n");
}

}  // namespace
}  // namespace facetrain
