// The configuration tree: precedence, strictness, places in errors, durations and schedules.
#include "core/config.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "core/registry.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {

struct Inner {
  double rate = 0.5;
  int64_t count = 3;
  std::string mode = "fast";
  void fields(auto& f) {
    f("rate", rate, range(0, 1), "a rate");
    f("count", count, at_least(1), "a count");
    f("mode", mode, one_of("fast", "exact"), "a choice");
  }
};
struct Options {
  Inner inner;
  Config loss;
  std::string run = "runs/x";
  bool flip = true;
  uint64_t seed = 0;
  Duration every{500};
  Scheduled lr{0.1};
  std::vector<std::string> sets{"a", "b"};
  void fields(auto& f) {
    f("inner", inner, "a nested section");
    f("loss", loss, "parsed by whoever is created");
    f("run", run, "folder");
    f("flip", flip, "flip");
    f("seed", seed, "seed");
    f("every", every, at_least(0), "how often");
    f("lr", lr, range(0, 10), "rate");
    f("sets", sets, "names");
  }
};

struct Margin {
  void fields(auto&) {}
};

class ConfigFiles : public testing::Test {
 protected:
  ConfigFiles() {
    folder_ = std::filesystem::path(testing::TempDir()) / "config_test";
    std::filesystem::create_directories(folder_ / "base");
  }
  ~ConfigFiles() override { std::filesystem::remove_all(folder_); }
  std::string write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
    return (folder_ / name).string();
  }
  std::filesystem::path folder_;
};

std::string error_in(const std::string& yaml) {
  return error_of([&] { Config::parse(yaml, "c.yaml").as<Options>(); });
}

TEST_F(ConfigFiles, PrecedenceIsDefaultThenBaseThenFileThenCommandLine) {
  write("base/b.yaml", "inner: {rate: 0.1, count: 10, mode: exact}\nseed: 1\n");
  const auto file = write("c.yaml", "base: base/b.yaml\ninner:\n  count: 20\nseed: 2\n");
  const std::vector<std::string> overrides{"seed=3", "sets=[x]"};
  const auto options = Config::load(file, overrides).as<Options>();
  EXPECT_EQ(options.run, "runs/x");
  EXPECT_EQ(options.inner.mode, "exact");
  EXPECT_EQ(options.inner.rate, 0.1);
  EXPECT_EQ(options.inner.count, 20);
  EXPECT_EQ(options.seed, 3u);
  EXPECT_EQ(options.sets, std::vector<std::string>{"x"});
}

TEST_F(ConfigFiles, BasesChainAndACircleIsAnError) {
  write("base/one.yaml", "base: two.yaml\nseed: 1\n");
  write("base/two.yaml", "run: deep\nseed: 2\n");
  const auto options = Config::load(write("c.yaml", "base: base/one.yaml\n")).as<Options>();
  EXPECT_EQ(options.run, "deep");
  EXPECT_EQ(options.seed, 1u);
  const auto circle = write("self.yaml", "base: self.yaml\n");
  expect_parts(error_of([&] { Config::load(circle); }), {"self.yaml", "circle"});
  expect_parts(error_of([&] { Config::load(folder_ / "none.yaml"); }),
               {"none.yaml", "cannot read"});
  expect_parts(error_of([&] { Config::load(folder_); }), {"cannot read"});
}

TEST_F(ConfigFiles, AnotherNameDropsTheFilesOtherKeys) {
  write("base/b.yaml", "loss: {name: arcface, margin: 0.3, scale: 30}\n");
  const auto same = write("same.yaml", "base: base/b.yaml\nloss: {name: arcface, scale: 40}\n");
  EXPECT_TRUE(Config::load(same).section("loss").has("margin"));
  const auto other = write("other.yaml", "base: base/b.yaml\nloss: {name: cosface, scale: 40}\n");
  const auto loss = Config::load(other).section("loss");
  EXPECT_FALSE(loss.has("margin"));
  EXPECT_TRUE(loss.has("scale"));
  // From the command line too, in any order, and what stands there itself is kept.
  const std::vector<std::string> overrides{"loss.margin=0.2", "loss.name=cosface"};
  const auto changed = Config::load(same, overrides).section("loss");
  EXPECT_EQ(changed.name(), "cosface");
  EXPECT_TRUE(changed.has("margin"));
  EXPECT_FALSE(changed.has("scale"));
  // The same name too: what it means does not depend on what the file happens to say.
  const std::vector<std::string> again{"loss.name=arcface", "loss.margin=0.2"};
  const auto loss_again = Config::load(same, again).section("loss");
  EXPECT_FALSE(loss_again.has("scale"));
  EXPECT_NE(loss_again.dump().find("margin: 0.2"), std::string::npos);
}

TEST_F(ConfigFiles, WhatANameDropsIsSaid) {
  const auto file =
      write("c.yaml", "seed: 1\nloss:\n  name: arcface\n  margin: 0.3\n  scale: 30\n");
  const auto said = [&](std::vector<std::string> overrides) {
    ::testing::internal::CaptureStderr();
    Config::load(file, overrides);
    return ::testing::internal::GetCapturedStderr();
  };
  expect_parts(said({"loss.name=cosface"}), {"command line: loss.name=cosface: margin, scale of ",
                                             "c.yaml:4 no longer apply\n"});
  expect_parts(said({"loss.name=arcface", "loss.margin=0.2"}), {"c.yaml:4 no longer apply"});
  EXPECT_EQ(said({"loss.margin=0.2"}), "");
  EXPECT_EQ(said({"optimizer.name=sgd"}), "") << "nothing was written there";
}

TEST_F(ConfigFiles, AnOverrideHasAValue) {
  const auto file = write("c.yaml", "run: old\n");
  for (const char* nothing : {"run=", "run=  "}) {
    const std::vector<std::string> overrides{nothing};
    expect_parts(error_of([&] { Config::load(file, overrides); }),
                 {"command line: run: wanted a value after '=', found nothing", "\"\""});
  }
  const std::vector<std::string> empty{"run=\"\""};
  EXPECT_EQ(Config::load(file, empty).as<Options>().run, "");
}

TEST(Config, TextIsSetAsItIs) {
  auto config = Config::parse("run: old\n");
  config.set("run", "runs/a #1: [b");
  EXPECT_EQ(config.as<Options>().run, "runs/a #1: [b");
  EXPECT_EQ(Config::parse(config.dump()).as<Options>().run, "runs/a #1: [b");
}

TEST_F(ConfigFiles, OverridesMakeSectionsAndRefuseNonsense) {
  const auto file = write("c.yaml", "seed: 4\n");
  const std::vector<std::string> deep{"inner.count=7", "loss.inner.extra=[1, 2]"};
  auto config = Config::load(file, deep);
  EXPECT_EQ(config.as<Options>().inner.count, 7);
  EXPECT_TRUE(config.section("loss").section("inner").has("extra"));
  for (const char* wrong : {"seed", "=3", ".seed=1", "a..b=1", "inner.=1", "seed.x=1", "seed=[1"}) {
    const std::vector<std::string> overrides{wrong};
    expect_parts(error_of([&] { Config::load(file, overrides); }), {"command line"});
  }
  const std::vector<std::string> unknown{"inner.rat=0.5"};
  expect_parts(error_of([&] { Config::load(file, unknown).as<Options>(); }),
               {"command line", "'inner.rat'", "did you mean 'rate'"});
}

TEST(Config, UnknownKeysNameTheirLineAndTheNearest) {
  expect_parts(error_in("seed: 1\ninner:\n  rate: 0.1\n  cuont: 2\n"),
               {"c.yaml:4", "'inner.cuont'", "did you mean 'count'", "takes: count, mode, rate"});
  expect_parts(error_in("fliip: true\nsede: 3\n"), {"c.yaml:1", "'flip'", "c.yaml:2", "'seed'"});
  const auto far = error_in("completely_different: 1\n");
  EXPECT_EQ(far.find("did you mean"), far.npos);
  expect_parts(error_in("name: x\n"), {"unknown key 'name'"});  // nothing here is chosen by name
  EXPECT_NO_THROW(Config::parse("{}").as<Options>());
}

TEST(Config, TypeAndRangeErrorsNameThePlaceTheWantedAndTheFound) {
  expect_parts(error_in("\ninner: {rate: 1.5}\n"), {"c.yaml:2", "inner.rate", "0 ... 1", "1.5"});
  expect_parts(error_in("inner: {count: 0}\n"), {"at least 1", "found 0"});
  expect_parts(error_in("inner: {mode: slow}\n"), {"fast, exact", "'slow'"});
  expect_parts(error_in("inner: {count: many}\n"), {"inner.count", "an integer", "'many'"});
  expect_parts(error_in("inner: {count: 2.5}\n"), {"an integer", "'2.5'"});
  expect_parts(error_in("inner: {rate: .nan}\n"), {"a number"});
  expect_parts(error_in("inner: {rate: [1, 2]}\n"), {"a number", "[1, 2]"});
  expect_parts(error_in("flip: maybe\n"), {"true or false", "'maybe'"});
  expect_parts(error_in("seed: -1\n"), {"an integer", "'-1'"});
  expect_parts(error_in("seed: 1e30\n"), {"an integer"});
  expect_parts(error_in("run: {a: 1}\n"), {"one value"});
  expect_parts(error_in("inner: 3\n"), {"inner", "wanted a section", "'3'"});
  expect_parts(error_in("every: soon\n"), {"a number of steps, or 'N epochs'", "'soon'"});
  expect_parts(error_in("every: 1.5\n"), {"a number of steps"});
  expect_parts(error_in("every: 2 weeks\n"), {"a number of steps"});
  expect_parts(error_in("every: -1\n"), {"at least 0"});
  expect_parts(error_in("lr: {at: [0, 5], value: [0.1]}\n"), {"same length"});
  expect_parts(error_in("lr: {at: [5, 5], value: [0.1, 0.2]}\n"), {"increase"});
  expect_parts(error_in("lr: {at: [0], value: [11]}\n"), {"0 ... 10"});
  expect_parts(error_in("lr: {at: [0], values: [1]}\n"), {"'lr.values'", "did you mean 'value'"});
  expect_parts(error_in("seed: 1\nseed: 2\n"), {"c.yaml:2", "stands twice"});
  expect_parts(error_in("seed: [1\n"), {"c.yaml", "not YAML"});
  expect_parts(error_in("seed: 1\n---\nseed: 2\n"), {"one YAML document"});
  expect_parts(error_in("? [a, b]\n: 1\n"), {"a key must be one word"});
}

TEST(Config, NumbersAreWrittenAsPeopleWriteThem) {
  const auto options =
      Config::parse(
          "seed: 18446744073709551615\ninner: {count: 1_000_000, rate: 1e-3}\nsets: one\n")
          .as<Options>();
  EXPECT_EQ(options.seed, 18446744073709551615u);
  EXPECT_EQ(options.inner.count, 1'000'000);
  EXPECT_EQ(options.inner.rate, 0.001);
  EXPECT_EQ(options.sets, std::vector<std::string>{"one"});
  EXPECT_EQ(Config::parse("inner: {count: 2e6}").as<Options>().inner.count, 2'000'000);
}

TEST(Config, DurationsAreStepsOrEpochs) {
  const auto read = [](const std::string& text) {
    return Config::parse("every: " + text).as<Options>().every;
  };
  EXPECT_EQ(read("2000").steps(10), 2000);
  EXPECT_EQ(read("2e3 steps").steps(10), 2000);
  EXPECT_EQ(read("'2 epochs'").steps(10.5), 21);
  EXPECT_EQ(read("0.5 epochs").steps(10), 5);
  EXPECT_EQ(read("1 epoch").text(), "1 epochs");
  EXPECT_EQ(read("0").text(), "0");
}

TEST(Config, PeriodsAreDueAtTheFirstStepAfterAMultiple) {
  const auto due = [](const Duration& every, double steps_per_epoch) {
    std::vector<int64_t> steps;
    for (int64_t step = 1; step <= 12; ++step)
      if (every.due(step, steps_per_epoch)) steps.push_back(step);
    return steps;
  };
  using Steps = std::vector<int64_t>;
  EXPECT_EQ(due({5, false}, 10), (Steps{5, 10}));
  EXPECT_EQ(due({1, true}, 2.5), (Steps{3, 5, 8, 10}));
  EXPECT_EQ(due({3, true}, 10.0 / 3), (Steps{10}));  // a product that is not exact
  EXPECT_EQ(due({1, true}, 0.4).size(), 12u);        // shorter than a step: every step
  EXPECT_EQ(due({0, false}, 10), Steps{});
  EXPECT_EQ(due({0, true}, 10), Steps{});
}

TEST(Config, SchedulesHoldAndInterpolate) {
  const auto read = [](const std::string& text) {
    return Config::parse("lr: " + text).as<Options>().lr;
  };
  EXPECT_EQ(read("0.25")(1'000'000, 10), 0.25);
  const auto linear = read("{at: [10, '2 epochs'], value: [1, 3], interpolate: linear}");
  EXPECT_EQ(linear(0, 10), 1);
  EXPECT_EQ(linear(15, 10), 2);
  EXPECT_EQ(linear(99, 10), 3);
  const auto steps = read("{at: [0, 10], value: [1, 3]}");
  EXPECT_EQ(steps(9, 1), 1);
  EXPECT_EQ(steps(10, 1), 3);
  const auto cosine = read("{at: [0, 12], value: [0, 1], interpolate: cosine}");
  EXPECT_NEAR(cosine(4, 1), 0.25, 1e-12);  // (1 - cos 60°) / 2
  EXPECT_NEAR(cosine(6, 1), 0.5, 1e-12);
}

TEST(Config, TheDumpIsTheConfiguration) {
  auto config = Config::parse(
      "inner: {count: 5}\nevery: 3 epochs\nlr: {at: [0, 1 epochs], value: [0.1, 1e-7]}\n"
      "run: 'no: 1 # x'\nsets: ['true', '', '~', '1']\nloss: {name: arcface, margin: 0.5}\n");
  config.as<Options>();
  const std::string dump = config.dump();
  auto again = Config::parse(dump);
  const auto options = again.as<Options>();
  EXPECT_EQ(again.dump(), dump);
  EXPECT_EQ(options.run, "no: 1 # x");
  EXPECT_EQ(options.inner.count, 5);
  EXPECT_EQ(options.inner.rate, 0.5);  // resolved defaults are there
  EXPECT_EQ(options.every.text(), "3 epochs");
  EXPECT_EQ(options.lr(10, 10), 1e-7);
  EXPECT_EQ(options.loss.name(), "arcface");
  EXPECT_EQ(options.sets, (std::vector<std::string>{"true", "", "~", "1"}));
  EXPECT_NE(dump.find("mode: fast"), dump.npos);
}

TEST(Config, SectionsThatNobodyReadAreErrors) {
  auto config = Config::parse("inner: {count: 5}\nloss: {name: arcface}\n", "c.yaml");
  config.as<Options>();
  expect_parts(error_of([&] { config.check_all_used(); }), {"c.yaml:2", "loss", "not used"});
  config.section("loss").name();
  config.section("loss").as<Margin>();
  EXPECT_NO_THROW(config.check_all_used());
}

TEST(Config, AliasesCannotBlowUp) {
  std::string bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n";
  for (int i = 1; i < 9; ++i) {
    bomb += fmt::format("a{}: &a{} [", i, i);
    for (int k = 0; k < 10; ++k) bomb += fmt::format("{}*a{}", k ? ", " : "", i - 1);
    bomb += "]\n";
  }
  expect_parts(error_of([&] { Config::parse(bomb); }), {"at most"});
  expect_parts(error_of([&] { Config::parse("a: &a [*a]\n"); }), {"<text>:"});
  expect_parts(error_of([&] { Config::parse(std::string(100, '[') + std::string(100, ']')); }),
               {"levels"});
}

struct Shape {
  static constexpr const char* kKind = "shape";
  virtual ~Shape() = default;
  virtual double area() const = 0;
};
struct Square : Shape {
  struct Options {
    double side = 2;
    void fields(auto& f) { f("side", side, at_least(0), "length of a side"); }
  };
  Square(const Options& o, double s) : options(o), scale(s) {}
  double area() const override { return options.side * options.side * scale; }
  Options options;
  double scale;
};

TEST(Registry, MakesWhatTheNameSays) {
  Registry<Shape, double> shapes;
  shapes.add<Square, Square::Options>("square", "four equal sides");
  auto section = Config::parse("name: square\nside: 3\n", "c.yaml");
  EXPECT_EQ(shapes.create(section, 0.5)->area(), 4.5);
  EXPECT_EQ(shapes.names(), std::vector<std::string>{"square"});
  ASSERT_EQ(shapes.entries()[0].fields.size(), 1u);
  const auto& field = shapes.entries()[0].fields[0];
  EXPECT_EQ(field.name, "side");
  EXPECT_EQ(field.fallback, "2");
  EXPECT_EQ(field.allowed, ">= 0");
  const auto fails = [&](const std::string& yaml) {
    return error_of([&] { shapes.create(Config::parse(yaml, "c.yaml"), 1.0); });
  };
  expect_parts(fails("name: sqaure\n"),
               {"c.yaml:1: name: unknown shape 'sqaure'", "did you mean 'square'"});
  auto overridden = Config::parse("shape:\n  side: 3\n", "c.yaml");
  overridden.override_with(std::vector<std::string>{"shape.name=sqaure"});
  expect_parts(error_of([&] { shapes.create(overridden.section("shape"), 1.0); }),
               {"command line: shape.name: unknown shape 'sqaure'"});
  expect_parts(fails("side: 3\n"), {"wanted a name of a shape", "known: square"});
  expect_parts(fails("name: square\nsied: 3\n"), {"'sied'", "'side'"});
  expect_parts(error_of([&] { shapes.add<Square, Square::Options>("square", "again"); }), {"two"});
  auto empty = Config::parse("name: square\n");
  shapes.resolve(empty);
  EXPECT_NE(empty.dump().find("side: 2"), std::string::npos);
}

TEST(Config, ACloneIsATreeOfItsOwn) {
  const Config original = Config::parse("{a: {b: 1, c: [2, {d: 3}]}}");
  const std::string before = original.dump();
  Config copy = original.clone();
  EXPECT_EQ(copy.dump(), before);
  copy.override_with(std::vector<std::string>{"a.b=7", "a.e=9"});
  copy.section("a").section("f");
  EXPECT_EQ(original.dump(), before);
  EXPECT_NE(copy.dump(), before);
  EXPECT_NE(original.node().find("a")->find("c")->list[1],
            copy.node().find("a")->find("c")->list[1]);
}

}  // namespace
}  // namespace facetrain
