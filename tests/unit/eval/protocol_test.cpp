// Protocols over folders of images and over files of embeddings: what is embedded, what is refused.
#include "eval/protocol.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/thread_comm.h"
#include "core/torch.h"
#include "data/image_codec.h"
#include "eval/embeddings.h"
#include "eval/verification.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

// Ann and Bob have two images, Cy three, Dora one; the grey level tells an image apart.
class ProtocolSets : public ::testing::Test {
 protected:
  void SetUp() override {
    folder = fs::path(::testing::TempDir()) / "protocol_sets";
    fs::remove_all(folder);
    add("Ann/Ann_0001.png", 10);
    add("Ann/Ann_0002.png", 12);
    add("Bob/Bob_0001.png", 100);
    add("Bob/Bob_0002.png", 90);
    add("Cy/Cy_0001.png", 200);
    add("Cy/Cy_0002.png", 180);
    add("Cy/Cy_0007.png", 95);
    add("Dora/Dora_0001.png", 250);
  }
  void add(const std::string& name, uint8_t level) {
    fs::create_directories((folder / name).parent_path());
    const auto bytes = encode_png({4, 4, 3, std::vector<uint8_t>(48, level)});
    std::ofstream(folder / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  std::string write(const std::string& name, const std::string& text) {
    const fs::path file = folder.string() + "_" + name;
    std::ofstream(file) << text;
    return file.string();
  }
  Config section(const std::string& yaml) const {
    return Config::parse(fmt::format("{{path: '{}', {}}}", folder.string(), yaml));
  }
  // A direction in the plane by the grey level; counts images.
  EmbedFunction embed() {
    return [this](const at::Tensor& images) {
      seen += images.size(0);
      const at::Tensor angle = images.select(1, 0).select(1, 0).select(1, 0).to(at::kFloat) / 200;
      return torch::stack({angle.cos(), angle.sin()}, 1);
    };
  }
  Evaluation run(const Config& section) {
    Evaluation result;
    run_thread_ranks(1, [&](Communicator& comm) {
      result = run_evaluation(open_evaluation_set(section, {}), embed(), 3, comm);
    });
    return result;
  }
  Evaluation run_files(const Config& section) {
    Evaluation result;
    run_thread_ranks(1, [&](Communicator& comm) { result = evaluate_files(section, comm); });
    return result;
  }
  std::string open_error(const Config& section) {
    return error_of([&] { open_evaluation_set(section, {}); });
  }
  std::string file_error(const Config& section) {
    std::string message;
    run_thread_ranks(
        1, [&](Communicator& comm) { message = error_of([&] { evaluate_files(section, comm); }); });
    return message;
  }
  fs::path folder;
  std::atomic<int64_t> seen = 0;
};

TEST_F(ProtocolSets, PairsByNameEmbedOnlyWhatTheyUse) {
  const std::string list =
      write("pairs.txt", "2\t1\nCy\t1\t2\nAnn\t1\tCy\t7\nAnn\t1\t2\nBob\t1\tCy\t1\n");
  const auto result = run(section(fmt::format("pairs: '{}', flip: false", list)));
  EXPECT_EQ(seen, 6);  // Bob 2 and Dora are in no pair
  EXPECT_DOUBLE_EQ(result.figures.at("accuracy"), 1);
  EXPECT_DOUBLE_EQ(result.figures.at("val"), 1);
  EXPECT_EQ((*result.json)["pair_list"], list);
  // Rows of the whole set, in path order.
  const auto hardest = (*result.json)["hardest"]["different"][0];
  EXPECT_EQ(hardest["rows"], (std::vector<int64_t>{0, 6}));
  EXPECT_EQ(hardest["names"], (std::vector<std::string>{"Ann/Ann_0001.png", "Cy/Cy_0007.png"}));
  ASSERT_TRUE(result.verification);
  EXPECT_EQ(result.verification->pairs, 4);
}

TEST_F(ProtocolSets, CsvRowsAreThoseOfTheWholeSet) {
  const std::string list =
      write("pairs.csv", "fold,i,j,same\n1,6,4,1\n1,2,4,0\n2,4,5,1\n2,2,5,0\n");
  const auto result = run(section(fmt::format("pairs: '{}'", list)));
  EXPECT_EQ(seen, 2 * 4);  // each twice: with its mirror image
  EXPECT_EQ((*result.json)["hardest"]["same"][0]["rows"], (std::vector<int64_t>{6, 4}));
  write("pairs.csv", "1,0,1,1\n1,4,8,0\n");
  expect_parts(open_error(section(fmt::format("pairs: '{}'", list))),
               {"pairs.csv:2: row 8 is not there"});
}

TEST_F(ProtocolSets, APairOfAMissingImageIsNamedWithItsLine) {
  const std::string list = write("pairs.txt", "1\t1\n\nAnn\t1\t2\nAnn\t1\tEve\t1\n");
  expect_parts(open_error(section(fmt::format("pairs: '{}'", list))),
               {"pairs.txt:4: wanted the image 'Eve/Eve_0001'", "8 images", "'Ann/Ann_0001.png'"});
  expect_parts(open_error(section("flip: true")), {"wanted a list of pairs", "--pairs"});
  expect_parts(open_error(section("pairs: /nowhere.csv")), {"/nowhere.csv: cannot read"});
}

TEST_F(ProtocolSets, IdentificationSplitsOneSet) {
  const auto result =
      run(section("protocol: identification, ranks: [1, 2, 3], fpir: [0.5], flip: false"));
  EXPECT_EQ(seen, 8);
  const auto& json = *result.json;
  EXPECT_EQ(json["gallery"]["entries"], 4);  // the first image of each, Dora's too
  EXPECT_EQ(json["probes"]["all"], 4);
  // Cy 7 (95) is next to Bob (100), then to Ann (10), then to Cy (200); the others are found.
  EXPECT_DOUBLE_EQ(result.figures.at("rank1"), 0.75);
  EXPECT_DOUBLE_EQ(result.figures.at("rank2"), 0.75);
  EXPECT_DOUBLE_EQ(result.figures.at("rank3"), 1);
  EXPECT_TRUE(result.figures.contains("tpir@fpir=0.5"));
  const auto hardest = json["hardest"][0];
  EXPECT_EQ(hardest["row"], 6);
  EXPECT_EQ(hardest["name"], "Cy/Cy_0007.png");
  EXPECT_EQ(hardest["identity"], "Cy");
  EXPECT_EQ(hardest["best"]["row"], 2);
  EXPECT_EQ(hardest["best"]["name"], "Bob/Bob_0001.png");
}

TEST_F(ProtocolSets, GalleryAndProbesOfTwoFoldersMeetByName) {
  const fs::path whole = folder;
  folder = whole.string() + "_probes";  // other numbers for the same people
  fs::remove_all(folder);
  add("Bob/1.png", 101);
  add("Dora/1.png", 249);
  add("Eve/1.png", 140);
  const Config config = Config::parse(
      fmt::format("{{protocol: identification, gallery: '{}', probe: '{}', ranks: 1, fpir: 0.0}}",
                  whole.string(), folder.string()));
  const auto result = run(config);
  const auto& json = *result.json;
  EXPECT_EQ(json["gallery"]["entries"], 8);
  EXPECT_EQ(json["probes"]["known"], 2);
  EXPECT_EQ(json["probes"]["unknown"], 1);
  EXPECT_DOUBLE_EQ(result.figures.at("rank1"), 1);
  EXPECT_DOUBLE_EQ(result.figures.at("tpir@fpir=0"), 1);  // Eve is 0.2 off, they are 0.005 off
  EXPECT_EQ(json["probe"], folder.string());
}

TEST_F(ProtocolSets, RefusedSets) {
  expect_parts(open_error(section("protocol: identifcation")),
               {"unknown protocol 'identifcation'", "did you mean 'identification'", "pairs"});
  expect_parts(
      error_of([&] { resolve_evaluation_set(section("protocol: identification, pairs: x")); }),
      {"'pairs'", "ranks"});
  expect_parts(open_error(section("protocol: identification, gallery: x, probe: y")),
               {"found `path`", "leave one out"});
  expect_parts(open_error(Config::parse("{protocol: identification, gallery: x}")),
               {"wanted `probe` beside `gallery`"});
  expect_parts(open_error(Config::parse("{protocol: identification, probe: x}")),
               {"wanted a set to search in"});
  expect_parts(open_error(Config::parse("{protocol: identification}")), {"wanted the images"});
  expect_parts(open_error(Config::parse(fmt::format(
                   "{{protocol: identification, path: 'images:{}'}}", folder.string()))),
               {"have no labels", "a folder an identity", "one identity a line"});
  const fs::path single = folder.string() + "_single";
  fs::remove_all(single);
  fs::create_directories(single);
  fs::copy(folder / "Dora", single / "Dora");
  expect_parts(open_error(Config::parse(
                   fmt::format("{{protocol: identification, path: '{}'}}", single.string()))),
               {"each of its 1 identities has one image"});
}

class EmbeddingSets : public ProtocolSets {
 protected:
  std::string embeddings(const std::string& name, const Embeddings& content) {
    const std::string file = folder.string() + "_" + name;
    write_embeddings(file, content);
    return file;
  }
  Config of(const std::string& path, const std::string& yaml) const {
    return Config::parse(fmt::format("{{path: '{}', {}}}", path, yaml));
  }
  at::Tensor rows = torch::tensor({{1.0f, 0.0f}, {2.0f, 0.1f}, {0.0f, 3.0f}, {0.1f, 1.0f}});
};

TEST_F(EmbeddingSets, PairsByRowAndByName) {
  const std::string csv = write("pairs.csv", "1,0,1,1\n1,0,2,0\n2,2,3,1\n2,1,3,0\n");
  const std::string lfw =
      write("pairs.txt", "2\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\nBob\t1\t2\nAnn\t2\tBob\t2\n");
  const std::string npy = embeddings("e.npy", {rows, {}, {}});
  const std::string h5 = embeddings(
      "e.h5",
      {rows, {"Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", "Bob/Bob_0001.jpg", "Bob/Bob_0002.jpg"}, {}});
  const auto by_row = run_files(of(npy, fmt::format("pairs: '{}'", csv)));
  const auto by_name = run_files(of(h5, fmt::format("pairs: '{}'", lfw)));
  EXPECT_EQ(by_row.text, by_name.text);
  EXPECT_DOUBLE_EQ(by_row.figures.at("accuracy"), 1);
  EXPECT_TRUE((*by_row.json)["hardest"]["same"][0]["names"][0].is_null());
  EXPECT_EQ((*by_name.json)["hardest"]["same"][0]["names"][0], "Bob/Bob_0001.jpg");
  expect_parts(file_error(of(npy, fmt::format("pairs: '{}'", lfw))),
               {"have no names", "'fold,i,j,same'"});
}

TEST_F(EmbeddingSets, LabelsOfAFileOrOfItsNames) {
  const std::string labels = write("labels.txt", "Ann\nAnn\nBob\nBob\n");
  const std::string npy = embeddings("e.npy", {rows, {}, {}});
  const auto by_file =
      run_files(of(npy, fmt::format("protocol: identification, labels: '{}'", labels)));
  EXPECT_DOUBLE_EQ(by_file.figures.at("rank1"), 1);
  const std::vector<std::string> names = {"Ann/1", "Ann/2", "Bob/1", "Bob/2"};
  for (const Embeddings& content :
       {Embeddings{rows, names, {}}, Embeddings{rows, {}, {"Ann", "Ann", "Bob", "Bob"}},
        Embeddings{rows, {"x/1", "x/2", "x/3", "x/4"}, {"0", "0", "1", "1"}}}) {
    const auto result = run_files(of(embeddings("e.h5", content), "protocol: identification"));
    EXPECT_EQ(result.text, by_file.text);
  }
  // Gallery and probes in two files.
  const std::string probe = embeddings("probe.h5", {rows.slice(0, 1, 3), {"Ann/9", "Eve/9"}, {}});
  const auto two = run_files(of(embeddings("e.h5", {rows, names, {}}),
                                fmt::format("protocol: identification, probe: '{}'", probe)));
  EXPECT_EQ((*two.json)["probes"]["unknown"], 1);
}

TEST_F(EmbeddingSets, BadLabels) {
  const std::string npy = embeddings("e.npy", {rows, {}, {}});
  expect_parts(file_error(of(npy, "protocol: identification")),
               {"e.npy: its images have no labels", "labels: FILE"});
  const std::string labels = write("labels.txt", "Ann\nAnn\nBob\n");
  expect_parts(file_error(of(npy, fmt::format("protocol: identification, labels: '{}'", labels))),
               {"labels.txt: 3 lines for 4 embeddings"});
  // Packed images without names are described; their descriptions are no identities.
  const std::string described = embeddings(
      "e.h5", {rows.slice(0, 0, 2),
               {"set 'a', shard 'x/b.h5', sample 0", "set 'a', shard 'x/b.h5', sample 1"},
               {}});
  expect_parts(file_error(of(described, "protocol: identification")), {"have no labels"});
  expect_parts(file_error(of(embeddings("none.npy", {torch::empty({0, 2}), {}, {}}),
                             fmt::format("protocol: identification, labels: '{}'", labels))),
               {"an empty set"});
  at::Tensor broken = rows.clone();
  broken[3][0] = NAN;
  const std::string four = write("labels.txt", "Ann\nAnn\nBob\nBob\n");
  expect_parts(file_error(of(embeddings("nan.npy", {broken, {}, {}}),
                             fmt::format("protocol: identification, labels: '{}'", four))),
               {"row 3 holds NaN"});
  const std::string csv = write("pairs.csv", "1,1,2,0\n1,3,2,1\n");
  expect_parts(file_error(of(folder.string() + "_nan.npy", fmt::format("pairs: '{}'", csv))),
               {"row 3 holds NaN"});
}

TEST_F(ProtocolSets, FiguresOfAllSetsAreTheSameOnAllRanks) {
  const std::string list = write("pairs.csv", "1,6,4,1\n1,2,4,0\n2,4,5,1\n2,2,5,0\n");
  std::map<std::string, double> wanted;
  for (const int ranks : {1, 2, 4}) {
    run_thread_ranks(ranks, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), ranks);
      const std::vector<EvaluationSet> sets = {
          open_evaluation_set(section(fmt::format("name: a, pairs: '{}'", list)), {}),
          open_evaluation_set(section("protocol: identification"), {})};
      const auto figures = evaluate_sets(sets, embed(), comm);
      if (ranks == 1) wanted = figures;
      EXPECT_EQ(figures, wanted);
    });
  }
  EXPECT_TRUE(wanted.contains("a.accuracy"));
  EXPECT_TRUE(wanted.contains("protocol_sets.rank1"));
}

}  // namespace
}  // namespace facetrain
