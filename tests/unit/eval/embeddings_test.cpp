// Embedding files: round trips, files as NumPy writes them, and every kind of foreign or damaged
// file.
#include "eval/embeddings.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/check.h"
#include "core/torch.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

class EmbeddingFiles : public ::testing::Test {
 protected:
  fs::path path(const std::string& name) {
    const fs::path folder = fs::path(::testing::TempDir()) / "embedding_files";
    fs::create_directories(folder);
    return folder / name;
  }
  fs::path write(const std::string& name, const std::string& bytes) {
    std::ofstream(path(name), std::ios::binary) << bytes;
    return path(name);
  }
  // A .npy file of version 1, 2 or 3 with this header text.
  std::string npy(int version, const std::string& header, size_t data_bytes) {
    std::string bytes = std::string("\x93NUMPY") + static_cast<char>(version) + '\0';
    bytes += static_cast<char>(header.size() & 255);
    bytes += static_cast<char>(header.size() >> 8);
    if (version > 1) bytes += std::string(2, '\0');
    return bytes + header + std::string(data_bytes, '\0');
  }
  std::string error_in(const fs::path& file) {
    return error_of([&] { read_embeddings(file); });
  }
  at::Tensor rows = torch::arange(12, torch::kFloat).view({4, 3}) / 7;
};

TEST_F(EmbeddingFiles, NpyRoundTrip) {
  write_embeddings(path("a.npy"), {rows, {}});
  EXPECT_TRUE(torch::equal(read_embeddings(path("a.npy")).rows, rows));
  EXPECT_FALSE(fs::exists(path("a.npy.tmp")));
  std::ifstream stream(path("a.npy"), std::ios::binary);
  std::string start(128, '\0');
  stream.read(start.data(), 128);
  EXPECT_EQ(start.substr(10, 59), "{'descr': '<f4', 'fortran_order': False, 'shape': (4, 3), }");
  EXPECT_EQ(fs::file_size(path("a.npy")) % 64, 48u);  // data begins at a multiple of 64
}

TEST_F(EmbeddingFiles, Hdf5RoundTripWithNames) {
  const std::vector<std::string> names = {"b/1.jpg", "b/2.jpg", "ä.png", ""};
  write_embeddings(path("a.h5"), {rows.t().contiguous().t(), names});
  const Embeddings back = read_embeddings(path("a.h5"));
  EXPECT_TRUE(torch::equal(back.rows, rows));
  EXPECT_EQ(back.names, names);
  EXPECT_TRUE(back.identities.empty());
  write_embeddings(path("b.hdf5"), {rows, {}});
  EXPECT_TRUE(read_embeddings(path("b.hdf5")).names.empty());
  const std::vector<std::string> people = {"Ann", "Ann", "Bob", "0"};
  write_embeddings(path("c.h5"), {rows, names, people});
  EXPECT_EQ(read_embeddings(path("c.h5")).identities, people);
  EXPECT_EQ(read_embeddings(path("c.h5")).names, names);
}

TEST_F(EmbeddingFiles, ReadsVersionsOneToThree) {
  const std::string header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n";
  for (const int version : {1, 2, 3})
    EXPECT_EQ(read_embeddings(write("v.npy", npy(version, header, 24))).rows.size(1), 3);
  EXPECT_NE(error_in(write("v.npy", npy(4, header, 24))).find("version 1 to 3, found 4"),
            std::string::npos);
}

TEST_F(EmbeddingFiles, RefusesWhatItCannotRead) {
  const std::string good = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }\n";
  EXPECT_NE(error_in(write("t.npy", npy(1, good, 23))).find("takes 24 bytes, found 23"),
            std::string::npos);
  EXPECT_NE(error_in(write("t.npy", npy(1, good, 25))).find("found 25"), std::string::npos);
  EXPECT_NE(error_in(write("t.npy", npy(1, good, 24).substr(0, 20))).find("truncated"),
            std::string::npos);
  EXPECT_NE(error_in(write("t.npy", "hello world")).find("not a .npy file"), std::string::npos);
  EXPECT_NE(
      error_in(
          write("t.npy", npy(1, "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 3), }", 48)))
          .find("wanted float32 ('<f4'), found '<f8'"),
      std::string::npos);
  EXPECT_NE(
      error_in(
          write("t.npy", npy(1, "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", 24)))
          .find("Fortran order"),
      std::string::npos);
  EXPECT_NE(error_in(write("t.npy",
                           npy(1, "{'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", 24)))
                .find("wanted an array [N, D], found shape (6,)"),
            std::string::npos);
  EXPECT_NE(error_in(write("t.npy", npy(1, "{}", 0))).find("has no 'descr'"), std::string::npos);
  EXPECT_NE(error_in(path("absent.npy")).find("cannot open"), std::string::npos);
  EXPECT_NE(error_in(path("absent.h5")).find("cannot open"), std::string::npos);
  EXPECT_NE(error_in(write("t.txt", "x")).find("wanted embeddings as .npy or .h5"),
            std::string::npos);
  EXPECT_NE(error_in(write("t.h5", "not hdf5 at all")).find("t.h5"), std::string::npos);
}

TEST_F(EmbeddingFiles, WritesNothingOnFailure) {
  EXPECT_THROW(write_embeddings("/nowhere/a.npy", {rows, {}}), Error);
  EXPECT_THROW(write_embeddings("/nowhere/a.h5", {rows, {}}), Error);
  EXPECT_THROW(write_embeddings(path("d.h5"), {rows, {"one name"}}), Error);
  EXPECT_THROW(write_embeddings(path("d.h5"), {rows, {}, {"one person"}}), Error);
  EXPECT_FALSE(fs::exists(path("d.h5")) || fs::exists(path("d.h5.tmp")));
}

}  // namespace
}  // namespace facetrain
