#include "trainer/figures.h"

#include <gtest/gtest.h>

#include <cmath>

namespace facetrain {
namespace {

TEST(Figures, AreSplitAtTheirDot) {
  const auto check = [](const char* name, const char* set, const char* figure) {
    EXPECT_EQ(split_figure(name).set, set) << name;
    EXPECT_EQ(split_figure(name).figure, figure) << name;
  };
  check("lfw.accuracy", "lfw", "accuracy");
  check("lfw.v2.tar@far=0.001", "lfw.v2", "tar@far=0.001");
  check("me@home.auc", "me@home", "auc");
  check("accuracy", "", "accuracy");
}

TEST(Figures, AreSortedByInterest) {
  std::vector<std::string> names{"auc", "accuracy", "tar@far=0.01", "rank10", "eer", "rank1"};
  sort_figures(names);
  EXPECT_EQ(names, (std::vector<std::string>{"accuracy", "auc", "eer", "rank1", "rank10",
                                             "tar@far=0.01"}));
}

TEST(Figures, ErrorRatesAreBetterWhenLower) {
  for (const char* figure : {"eer", "lfw.eer", "my.set.eer", "probe.error"}) {
    EXPECT_TRUE(lower_is_better(figure)) << figure;
    EXPECT_TRUE(is_better(figure, 0.1, 0.2)) << figure;
    EXPECT_FALSE(is_better(figure, 0.2, 0.1)) << figure;
  }
  for (const char* figure : {"lfw.accuracy", "lfw.tar@far=0.1", "eer.accuracy", "s.accuracy@eer"}) {
    EXPECT_FALSE(lower_is_better(figure)) << figure;
    EXPECT_TRUE(is_better(figure, 0.2, 0.1)) << figure;
  }
}

TEST(Figures, EqualOnesAndWhatIsNoNumberBeatNothing) {
  for (const char* figure : {"lfw.eer", "lfw.accuracy"}) {
    EXPECT_FALSE(is_better(figure, 0.5, 0.5)) << figure;
    EXPECT_FALSE(is_better(figure, NAN, 0.5)) << figure;
    EXPECT_FALSE(is_better(figure, NAN, NAN)) << figure;
    EXPECT_TRUE(is_better(figure, 0.5, NAN)) << figure;
  }
}

}  // namespace
}  // namespace facetrain
