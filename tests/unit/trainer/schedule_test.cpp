#include "trainer/schedule.h"

#include <gtest/gtest.h>

namespace facetrain {
namespace {

double factor(const std::string& yaml, int64_t step, int64_t total, double steps_per_epoch = 10) {
  return Schedules::get().create(Config::parse(yaml))->factor({step, total, steps_per_epoch});
}

TEST(Schedule, PolyFallsLinearlyFromOneToZero) {
  EXPECT_DOUBLE_EQ(factor("name: poly", 0, 100), 1);
  EXPECT_DOUBLE_EQ(factor("name: poly", 25, 100), 0.75);
  EXPECT_NEAR(factor("name: poly", 99, 100), 0.01, 1e-15);
}

TEST(Schedule, WarmupRisesInStepsOrEpochsAndThenTheShapeStarts) {
  EXPECT_DOUBLE_EQ(factor("{name: poly, warmup: 4}", 0, 104), 0.25);
  EXPECT_DOUBLE_EQ(factor("{name: poly, warmup: 4}", 3, 104), 1);
  EXPECT_DOUBLE_EQ(factor("{name: poly, warmup: 4}", 4, 104), 1);
  EXPECT_DOUBLE_EQ(factor("{name: poly, warmup: 4}", 54, 104), 0.5);
  EXPECT_DOUBLE_EQ(factor("{name: constant, warmup: '2 epochs'}", 9, 100), 0.5);
}

// reference/ssl_peft_unlearning.md section 12: 2.4e-3, warm-up 40 of 800 epochs from 0.
TEST(Schedule, CosineWithWarmupGivesTheGoldenNumbers) {
  const auto lr = [](int64_t epoch) {
    return 2.4e-3 *
           factor("{name: cosine, warmup: '40 epochs', warmup_from: 0}", 5 * epoch, 4000, 5);
  };
  EXPECT_EQ(lr(0), 0);
  EXPECT_NEAR(lr(10), 6.0e-4, 1e-18);
  EXPECT_NEAR(lr(20), 1.2e-3, 1e-18);
  EXPECT_NEAR(lr(40), 2.4e-3, 1e-18);
  EXPECT_NEAR(lr(200), 2.146969e-3, 5e-10);
  EXPECT_NEAR(lr(420), 1.2e-3, 1e-15);
  EXPECT_NEAR(lr(640), 2.530314e-4, 5e-11);
}

// SwAV: 10 of 100 epochs from 0.3 to 4.8, then to 0.0048.
TEST(Schedule, WarmupFromAValueRisesFromIt) {
  const std::string yaml = "{name: cosine, warmup: 100, warmup_from: 0.0625, final: 0.001}";
  EXPECT_NEAR(4.8 * factor(yaml, 0, 1000), 0.3, 1e-15);
  EXPECT_NEAR(4.8 * factor(yaml, 50, 1000), 2.55, 1e-15);
  EXPECT_NEAR(4.8 * factor(yaml, 100, 1000), 4.8, 1e-15);
  EXPECT_NEAR(4.8 * factor(yaml, 550, 1000), (4.8 + 0.0048) / 2, 1e-12);
  EXPECT_NEAR(4.8 * factor(yaml, 1000, 1000), 0.0048, 1e-12);
}

TEST(Schedule, CosineEndsAtFinal) {
  EXPECT_NEAR(factor("{name: cosine, final: 0.1}", 50, 100), 0.55, 1e-12);
  EXPECT_NEAR(factor("{name: cosine, final: 0.1}", 100, 100), 0.1, 1e-12);
}

TEST(Schedule, StepDropsAtMilestones) {
  const std::string yaml = "{name: step, milestones: ['3 epochs', 50], gamma: 0.5}";
  EXPECT_DOUBLE_EQ(factor(yaml, 29, 100), 1);
  EXPECT_DOUBLE_EQ(factor(yaml, 30, 100), 0.5);
  EXPECT_DOUBLE_EQ(factor(yaml, 50, 100), 0.25);
}

TEST(Schedule, EveryRegisteredScheduleStaysWithinZeroAndOne) {
  for (const auto& name : Schedules::get().names())
    for (int64_t step = 0; step < 100; ++step) {
      const double value = factor("{name: " + name + ", warmup: 7}", step, 100);
      EXPECT_GE(value, 0) << name << step;
      EXPECT_LE(value, 1) << name << step;
    }
}

}  // namespace
}  // namespace facetrain
