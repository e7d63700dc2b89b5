// Pair lists: both forms, and errors that name file and line.
#include "eval/pairs.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/check.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

class Pairs : public ::testing::Test {
 protected:
  fs::path write(const std::string& text) {
    const fs::path file =
        fs::path(::testing::TempDir()) /
        (std::string("pairs_") + ::testing::UnitTest::GetInstance()->current_test_info()->name() +
         ".txt");
    std::ofstream(file) << text;
    return file;
  }
  std::string csv_error(const std::string& text) {
    try {
      read_csv_pairs(write(text), 10);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
  std::string lfw_error(const std::string& text) {
    try {
      read_lfw_pairs(write(text));
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  }
};

TEST_F(Pairs, CsvWithAndWithoutHeader) {
  for (const std::string header : {"fold,i,j,same\n", ""}) {
    const auto pairs = read_csv_pairs(write(header + "1,0,9,1\r\n\n 2, 3, 4, 0\n"), 10);
    ASSERT_EQ(pairs.size(), 2u);
    EXPECT_EQ(pairs[0].second, 9);
    EXPECT_TRUE(pairs[0].same);
    EXPECT_EQ(pairs[1].fold, 2);
    EXPECT_EQ(pairs[1].first, 3);
    EXPECT_FALSE(pairs[1].same);
  }
}

TEST_F(Pairs, CsvErrorsNameFileAndLine) {
  EXPECT_NE(csv_error("fold,i,j,same\n1,0,1,1\n1,0,10,1\n")
                .find(".txt:3: row 10 is not there: the embeddings have rows 0 to 9"),
            std::string::npos);
  EXPECT_NE(csv_error("1,0,-1,1\n").find(".txt:1: row -1"), std::string::npos);
  EXPECT_NE(csv_error("1,0,1,2\n").find("same = 0 or 1"), std::string::npos);
  EXPECT_NE(csv_error("1,0,1\n").find("wanted 'fold,i,j,same'"), std::string::npos);
  EXPECT_NE(csv_error("1,0,1,1\n1,a,1,1\n").find(".txt:2: wanted whole numbers"),
            std::string::npos);
  EXPECT_NE(csv_error("i,j,fold,same\n").find("wanted the header"), std::string::npos);
  EXPECT_NE(csv_error("fold,i,j,same\n").find("no pairs"), std::string::npos);
  EXPECT_THROW(read_csv_pairs("/nowhere/pairs.csv", 1), Error);
}

TEST_F(Pairs, LfwForm) {
  const auto list =
      read_lfw_pairs(write("2\t1\nAnn\t1\t4\nAnn\t4\tBob_B\t12\nCy\t1\t2\nCy\t1\tAnn\t1\n"));
  EXPECT_EQ(list.images,
            (std::vector<std::string>{"Ann/Ann_0001", "Ann/Ann_0004", "Bob_B/Bob_B_0012",
                                      "Cy/Cy_0001", "Cy/Cy_0002"}));
  ASSERT_EQ(list.pairs.size(), 4u);
  EXPECT_TRUE(list.pairs[0].same);
  EXPECT_EQ(list.pairs[1].first, 1);
  EXPECT_EQ(list.pairs[1].second, 2);
  EXPECT_FALSE(list.pairs[1].same);
  EXPECT_EQ(list.pairs[1].fold, 1);
  EXPECT_EQ(list.pairs[2].fold, 2);
  EXPECT_EQ(read_lfw_pairs(write("1\nAnn\t1\t4\nAnn\t4\tBob\t2\n")).pairs.size(),
            2u);  // View 1: one number
  EXPECT_EQ(read_lfw_pairs(write("1 1\nAnn 1 4\nAnn 4 Bob 2\n")).pairs.size(),
            2u);  // blanks for tabs
}

TEST_F(Pairs, LfwErrorsNameFileAndLine) {
  EXPECT_NE(lfw_error("").find("empty"), std::string::npos);
  EXPECT_NE(lfw_error("Ann\t1\t2\n").find(".txt:1: wanted the header"), std::string::npos);
  EXPECT_NE(lfw_error("1\t1\nAnn\t1\t2\n").find("that is 2; found 1"), std::string::npos);
  EXPECT_NE(lfw_error("1\t1\nAnn\t1\nAnn\t1\tB\t1\n").find(".txt:2: wanted 'name"),
            std::string::npos);
  EXPECT_NE(lfw_error("1\t1\nAnn\t1\tx\n").find("wanted the number of an image, found 'x'"),
            std::string::npos);
  EXPECT_NE(lfw_error("1\t1\n../etc\t1\t2\n").find("is no name"), std::string::npos);
}

TEST_F(Pairs, TellsTheFormsApart) {
  EXPECT_TRUE(is_csv_pairs(write("\nfold,i,j,same\n")));
  EXPECT_FALSE(is_csv_pairs(write("10\t300\n")));
}

}  // namespace
}  // namespace facetrain
