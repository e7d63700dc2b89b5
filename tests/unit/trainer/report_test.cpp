// The report of a run: what a run folder tells, whole pages of tiny and of broken runs.
#include <gtest/gtest.h>

#include <fstream>

#include "comm/thread_comm.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"
#include "trainer/recipe.h"
#include "trainer/report/report_page.h"
#include "trainer/run.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

class Report : public ::testing::Test {
 protected:
  fs::path run() const { return folder_.path() / "run"; }
  void write(const std::string& name, const std::string& content) const {
    fs::create_directories(run());
    std::ofstream(run() / name) << content;
  }
  std::string page(bool evaluate = false, std::vector<std::string> overrides = {}) const {
    ReportInput input;
    input.history = read_run(run());
    input.output = folder_.path() / "report.html";
    input.program = "test";
    input.evaluation.problem = "not asked for";
    if (evaluate)
      run_thread_ranks(1, [&](Communicator& comm) {
        input.evaluation = evaluate_run(input.history, {std::move(overrides), 2}, comm, c10::kCPU);
      });
    return report_page(input);
  }
  // Three steps and two evaluations of a real run.
  void train() const {
    write_tiny_faces(folder_.path() / "faces", 6, 4, 32);
    std::ofstream(folder_.path() / "pairs.csv")
        << "fold,i,j,same\n0,0,1,1\n0,0,5,0\n0,4,6,1\n0,8,13,0\n1,9,10,1\n1,3,22,0\n1,12,13,1\n"
           "1,16,21,0\n";
    Config config = Config::parse(fmt::format(R"(
run: {0}/run
data: {{train: 'folder:{0}/faces', size: 32, batch_size: 6, workers: 1}}
model: {{name: iresnet18, width: 0.0625, embedding: 16}}
loss: {{name: cosface}}
trainer: {{steps: 3, threads: 1}}
eval: {{every: 2, sets: [{{name: 'a <b>', path: {0}/faces, pairs: {0}/pairs.csv}}]}}
log: {{every: 1}}
)",
                                              folder_.path().string()),
                                  "test.yaml");
    resolve_config(config);
    run_thread_ranks(1, [&](Communicator& comm) {
      EXPECT_EQ(run_training({config}, {comm, c10::kCPU, "a <thread>"}), RunEnd::kDone);
    });
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(Report, OfATinyRunHasEverySection) {
  train();
  const RunHistory history = read_run(run());
  EXPECT_EQ(history.logged, 3);
  EXPECT_EQ(history.evaluations, 2);
  EXPECT_EQ(history.steps, 3);
  EXPECT_EQ(history.broken_lines, 0);
  ASSERT_EQ(history.events.size(), 2u);
  EXPECT_EQ(integer_of(history.last_event("start"), "images"), 24);
  EXPECT_EQ(string_of(history.last_event("end"), "how"), "done");
  ASSERT_EQ(history.training.front().name, "loss");
  EXPECT_EQ(history.training.front().step, (std::vector<double>{1, 2, 3}));
  for (const char* phase : {"data", "forward", "backward", "verdict", "update", "evaluation"})
    EXPECT_GT(history.seconds.at(phase), 0) << phase;
  ASSERT_EQ(history.checkpoints.size(), 1u);
  EXPECT_TRUE(history.checkpoints[0].latest);

  const std::string html = page(true);
  expect_parts(html,
               {"finished", "a &lt;thread&gt;", "a &lt;b&gt;", "id=\"curves\"", "id=\"progress\"",
                "id=\"evaluation\"", "id=\"time\"", "id=\"configuration\"", "id=\"environment\"",
                "href=\"./run/step_000000003/\"", "</html>", "The same person, least alike",
                "Different people, most alike", "threshold", "false accept rate"});
  EXPECT_EQ(count(html, "src=\"data:image/jpeg;base64,/9j/"), 8u) << "two pairs of each kind";
  EXPECT_EQ(count(html, "src=\""), 8u);
  EXPECT_EQ(html.find("<b>,"), std::string::npos);
  EXPECT_EQ(html.find("http:"), std::string::npos);
  EXPECT_EQ(html.find("url("), std::string::npos);
  EXPECT_EQ(html.find("<script"), std::string::npos);
}

TEST_F(Report, NamesTheSetThatItCannotRead) {
  train();
  const std::string html = page(true, {"eval.sets=[{name: gone, path: /nowhere, pairs: /no.csv}, "
                                       "{name: here, path: " +
                                       (run().parent_path() / "faces").string() + ", pairs: " +
                                       (run().parent_path() / "pairs.csv").string() + "}]"});
  expect_parts(html, {"gone could not be evaluated: ", "/nowhere", "<summary>here</summary>"});
  expect_parts(page(true, {"eval.sets=[]"}), {"Not evaluated: eval.sets"});
  expect_error([&] { page(true, {"eval.sets=[{paht: x}]"}); }, {"paht", "path"});
}

TEST_F(Report, OfARunWithoutStepsSaysSo) {
  write("config.yaml", "run: x\neval: {sets: [{path: a, pairs: b}]}\n");
  expect_parts(page(true),
               {"No step is logged yet", "Nothing was evaluated", "the run has no checkpoint yet",
                "state not recorded", "Not recorded: the run has no sessions.jsonl", "</html>"});
}

TEST_F(Report, EveryProtocolHasATableOfItsOwnAndGroupsAnother) {
  write("config.yaml", "run: x\n");
  write("metrics.jsonl",
        "{\"step\": 1, \"eval\": {\"lfw.accuracy\": 0.9, \"lfw.eer\": 0.1, \"cfp.accuracy\": 0.8, "
        "\"people.rank1\": 0.7, \"people.rank5\": 0.8, \"lfw.accuracy@old\": 0.85}}\n"
        "{\"step\": 2, \"eval\": {\"lfw.accuracy\": 0.8, \"lfw.eer\": 0.2, \"cfp.accuracy\": 0.9, "
        "\"people.rank1\": 0.7, \"people.rank5\": 0.8, \"lfw.accuracy@old\": 0.85}}\n");
  const std::string html = page();
  const size_t begin = html.find("id=\"progress\""), end = html.find("class=\"grid below\"", begin);
  const std::string tables = html.substr(begin, end - begin);
  EXPECT_EQ(count(tables, "<table"), 3u) << tables;
  expect_parts(tables, {"<th>set</th><th>accuracy</th><th>eer</th></tr>",
                        "<th>set</th><th>rank1</th><th>rank5</th></tr>",
                        "<th>set</th><th>accuracy@old</th></tr>", "best 0.1</small>"});
}

TEST_F(Report, TakesWhatIsLeftOfBrokenLogs) {
  write("config.yaml", "run: x\n");
  write("metrics.jsonl",
        "{\"step\": 1, \"loss\": null}\nnonsense\n{\"step\": \"x\"}\n[1]\n"
        "{\"step\": 2, \"loss\": null, \"odd <name>\": 3, \"list\": [1]}\n{\"step\": 3, \"lo");
  write("sessions.jsonl", "{\"event\": \"start\", \"steps\": \"many\", \"place\": 3}\n{}\n");
  const RunHistory history = read_run(run());
  EXPECT_EQ(history.logged, 2);
  EXPECT_EQ(history.broken_lines, 5);
  expect_parts(page(), {"no finite value", "2 of 2 values are not finite", "odd &lt;name&gt;",
                        "running, or ended without a word", "5 lines"});
}

TEST_F(Report, WantsARunFolder) {
  expect_error([&] { read_run(run()); }, {"no run folder: there is no '" + run().string()});
  write("metrics.jsonl", "");
  expect_error([&] { read_run(run()); }, {run().string(), "not a run folder"});
}

}  // namespace
}  // namespace facetrain
