// Checkpoints at one world size, read at another; pointers, pruning, and every way in which a write
// or a read may fail.
#include "trainer/checkpoint.h"

#include <gtest/gtest.h>

#include <fstream>

#include "comm/collectives.h"
#include "comm/thread_comm.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"
#include "trainer/checkpointer.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

constexpr int64_t kTotal = 11;  // rows: no world size divides them

// Tensors of one rank whose values say which row they are.
CheckpointTensors make_tensors(int rank, int size, double offset) {
  const Slice slice = slice_of(kTotal, rank, size);
  const auto rows =
      (torch::arange(slice.begin, slice.end, torch::kDouble) + offset).unsqueeze(1).repeat({1, 3});
  CheckpointTensors tensors;
  tensors.model = {{"backbone.weight", torch::full({2, 2}, offset)},
                   {"backbone.count", torch::full({}, 7, torch::kLong)}};
  tensors.optimizer = {{"backbone.weight.momentum", torch::full({2, 2}, offset + 1)}};
  tensors.rows = {
      {"classifier.weight", rows.clone(), slice.begin, slice.end, kTotal},
      {"classifier.weight.momentum", (rows + 100).clone(), slice.begin, slice.end, kTotal}};
  return tensors;
}

CheckpointMeta make_meta(int64_t step) {
  CheckpointMeta meta;
  meta.state.step = step;
  meta.state.samples = 10 * step;
  meta.state.loss_scale = 0.1;
  meta.seed = 18446744073709551615ULL;
  meta.config = "model:\n  name: iresnet18\n";
  return meta;
}

void save_at(const fs::path& run, int ranks, int64_t step, double offset,
             CheckpointOptions options = {}, bool best = false) {
  run_thread_ranks(ranks, [&](Communicator& comm) {
    ASSERT_EQ(comm.size(), ranks);
    Checkpointer checkpointer(run, options, comm);
    checkpointer.save(make_meta(step), make_tensors(comm.rank(), ranks, offset), best);
    EXPECT_TRUE(checkpointer.finish());
  });
}

TEST(Checkpoint, ReadsAtEveryWorldSizeWhatAnyWrote) {
  for (int writers = 1; writers <= 4; ++writers) {
    const TemporaryFolder folder;
    save_at(folder.path(), writers, 12, 0.5);
    const auto newest = newest_checkpoint(folder.path());
    ASSERT_TRUE(newest.has_value());
    EXPECT_EQ(newest->filename(), "step_000000012");
    for (int readers = 1; readers <= 4; ++readers)
      run_thread_ranks(readers, [&](Communicator& comm) {
        auto found = make_tensors(comm.rank(), readers, -1000);
        read_checkpoint(*newest, found);
        const auto wanted = make_tensors(comm.rank(), readers, 0.5);
        for (size_t i = 0; i < wanted.model.size(); ++i)
          EXPECT_TRUE(torch::equal(found.model[i].second, wanted.model[i].second));
        for (size_t i = 0; i < wanted.optimizer.size(); ++i)
          EXPECT_TRUE(torch::equal(found.optimizer[i].second, wanted.optimizer[i].second));
        for (size_t i = 0; i < wanted.rows.size(); ++i)
          EXPECT_TRUE(torch::equal(found.rows[i].tensor, wanted.rows[i].tensor));
      });
  }
}

TEST(Checkpoint, MetaKeepsTheLoopAndTheConfiguration) {
  const TemporaryFolder folder;
  save_at(folder.path(), 2, 3, 0);
  const auto meta = read_meta(folder.path() / "step_000000003");
  EXPECT_EQ(meta.state.step, 3);
  EXPECT_EQ(meta.state.samples, 30);
  EXPECT_EQ(meta.state.loss_scale, 0.1);
  EXPECT_EQ(meta.seed, 18446744073709551615ULL);
  EXPECT_EQ(meta.world_size, 1);
  EXPECT_EQ(Config::parse(meta.config).section("model").name(), "iresnet18");
}

TEST(Checkpoint, KeepsTheNewestAndTheBest) {
  const TemporaryFolder folder;
  CheckpointOptions options;
  options.keep = 2;
  save_at(folder.path(), 2, 1, 1, options, /*best=*/true);
  for (int64_t step = 2; step <= 5; ++step) save_at(folder.path(), 2, step, 0, options);
  EXPECT_TRUE(is_checkpoint(folder.path() / "step_000000001"));
  EXPECT_FALSE(fs::exists(folder.path() / "step_000000003"));
  EXPECT_TRUE(is_checkpoint(folder.path() / "step_000000004"));
  EXPECT_TRUE(is_checkpoint(folder.path() / "step_000000005"));
  std::string latest, best;
  std::ifstream(folder.path() / "latest") >> latest;
  std::ifstream(folder.path() / "best") >> best;
  EXPECT_EQ(latest, "step_000000005");
  EXPECT_EQ(best, "step_000000001");
  save_at(folder.path(), 2, 6, 0, options, /*best=*/true);
  std::vector<std::string> left;
  for (const auto& item : fs::directory_iterator(folder.path()))
    if (item.is_directory()) left.push_back(item.path().filename());
  std::ranges::sort(left);
  EXPECT_EQ(left, (std::vector<std::string>{"step_000000005", "step_000000006"}))
      << "the best is one of the newest two";
}

TEST(Checkpoint, PointersNameACheckpoint) {
  const TemporaryFolder folder;
  save_at(folder.path(), 1, 1, 0, {}, /*best=*/true);
  save_at(folder.path(), 1, 2, 0);
  EXPECT_EQ(follow_pointer(folder.path() / "best"), folder.path() / "step_000000001");
  EXPECT_EQ(follow_pointer(folder.path() / "latest"), folder.path() / "step_000000002");
  EXPECT_EQ(follow_pointer(folder.path()), folder.path());
  EXPECT_EQ(follow_pointer(folder.path() / "step_000000001" / "meta.yaml"),
            folder.path() / "step_000000001" / "meta.yaml");
  fs::remove_all(folder.path() / "step_000000001");
  expect_error([&] { follow_pointer(folder.path() / "best"); },
               {"best", "'step_000000001'", "not there"});
  expect_error([&] { follow_pointer(folder.path() / "none" / "best"); },
               {"there is no", "best", "checkpoint.keep_best"});
}

TEST(Checkpoint, UnfinishedFoldersDoNotExistAndAreRemoved) {
  const TemporaryFolder folder;
  save_at(folder.path(), 1, 1, 0);
  fs::create_directories(folder.path() / "step_000000009.tmp");
  std::ofstream(folder.path() / "step_000000009.tmp" / "meta.yaml") << "version: 1\n";
  EXPECT_EQ(newest_checkpoint(folder.path())->filename(), "step_000000001");
  save_at(folder.path(), 2, 2, 0);
  EXPECT_FALSE(fs::exists(folder.path() / "step_000000009.tmp"));
}

TEST(Checkpoint, AUsersCopyBesideThemIsNeitherTheNewestNorRemoved) {
  const TemporaryFolder folder;
  save_at(folder.path(), 1, 1, 0);
  for (const char* name : {"step_keep", "step_5", "step_-00000001", "step_"}) {
    EXPECT_FALSE(checkpoint_step(name)) << name;
    fs::copy(folder.path() / "step_000000001", folder.path() / name);
  }
  EXPECT_EQ(checkpoint_step("runs/a/step_000120000"), 120000);
  EXPECT_EQ(checkpoint_step(checkpoint_name(12'000'000'000)), 12'000'000'000);
  EXPECT_EQ(newest_checkpoint(folder.path())->filename(), "step_000000001");
  CheckpointOptions options;
  options.keep = 1;
  save_at(folder.path(), 1, 2, 0, options);
  EXPECT_EQ(newest_checkpoint(folder.path())->filename(), "step_000000002");
  EXPECT_FALSE(fs::exists(folder.path() / "step_000000001"));
  EXPECT_TRUE(is_checkpoint(folder.path() / "step_keep"));
}

TEST(Checkpoint, OfAnotherNetworkNamesTheTensor) {
  const TemporaryFolder folder;
  save_at(folder.path(), 2, 1, 0);
  const auto checkpoint = folder.path() / "step_000000001";
  auto other_shape = make_tensors(0, 1, 0);
  other_shape.model[0].second = torch::zeros({3, 2});
  EXPECT_NE(error_of([&] {
              read_checkpoint(checkpoint, other_shape);
            }).find("'backbone.weight' has shape [2, 2], this run's has [3, 2]"),
            std::string::npos);
  auto other_name = make_tensors(0, 1, 0);
  other_name.model[0].first = "backbone.fc.weight";
  EXPECT_NE(
      error_of([&] { read_checkpoint(checkpoint, other_name); }).find("lacks backbone.fc.weight"),
      std::string::npos);
  auto other_classes = make_tensors(0, 1, 0);
  for (auto& rows : other_classes.rows) rows.total = 12;
  EXPECT_NE(error_of([&] {
              read_checkpoint(checkpoint, other_classes);
            }).find("has 11 rows in all, this run's has 12"),
            std::string::npos);
}

TEST(Checkpoint, DamageNamesTheFile) {
  const TemporaryFolder folder;
  save_at(folder.path(), 2, 1, 0);
  const auto checkpoint = folder.path() / "step_000000001";
  fs::resize_file(checkpoint / "rows_1.safetensors",
                  fs::file_size(checkpoint / "rows_1.safetensors") - 8);
  EXPECT_NE(error_of([&] {
              read_checkpoint(checkpoint, make_tensors(0, 1, 0));
            }).find("rows_1.safetensors"),
            std::string::npos);
  fs::remove(checkpoint / "rows_1.safetensors");
  EXPECT_NE(error_of([&] {
              read_checkpoint(checkpoint, make_tensors(0, 1, 0));
            }).find("rows_<rank>.safetensors file is missing"),
            std::string::npos);
  std::ofstream(checkpoint / "meta.yaml") << "version: 99\n";
  EXPECT_NE(error_of([&] { read_meta(checkpoint); }).find("version 99"), std::string::npos);
  std::ofstream(checkpoint / "meta.yaml") << "version: 1\nstep: x\n";
  EXPECT_NE(error_of([&] { read_meta(checkpoint); }).find("meta.yaml:2"), std::string::npos);
}

TEST(Checkpoint, AFailedWriteLeavesThePreviousOneWhole) {
  const TemporaryFolder folder;
  save_at(folder.path(), 2, 1, 0);
  // A file where rank 1's part belongs stands for a disk that refuses: the folder of the same name
  // cannot be made.
  run_thread_ranks(2, [&](Communicator& comm) {
    Checkpointer checkpointer(folder.path(), {}, comm);
    if (comm.rank() == 0)
      fs::create_directories(folder.path() / "step_000000002.tmp" / "rows_1.safetensors" / "x");
    comm.barrier();
    checkpointer.save(make_meta(2), make_tensors(comm.rank(), 2, 0), false);
    EXPECT_FALSE(checkpointer.finish());
    checkpointer.save(make_meta(3), make_tensors(comm.rank(), 2, 0),
                      false);  // training goes on, and saves again
    EXPECT_TRUE(checkpointer.finish());
  });
  EXPECT_TRUE(is_checkpoint(folder.path() / "step_000000001"));
  EXPECT_FALSE(fs::exists(folder.path() / "step_000000002"));
  EXPECT_FALSE(fs::exists(folder.path() / "step_000000002.tmp"));
  EXPECT_EQ(newest_checkpoint(folder.path())->filename(), "step_000000003");
}

TEST(Checkpoint, OneThatCannotTakeItsNameHasFailedOnAllRanks) {
  const TemporaryFolder folder;
  save_at(folder.path(), 2, 1, 0);
  fs::create_directories(folder.path() / "step_000000002" / "in the way");
  run_thread_ranks(2, [&](Communicator& comm) {
    Checkpointer checkpointer(folder.path(), {}, comm);
    checkpointer.save(make_meta(2), make_tensors(comm.rank(), 2, 0), false);
    EXPECT_FALSE(checkpointer.finish());
  });
  EXPECT_EQ(newest_checkpoint(folder.path())->filename(), "step_000000001");
  EXPECT_FALSE(fs::exists(folder.path() / "step_000000002.tmp"));
}

TEST(Checkpoint, ARunFolderTakesOneJobAtATime) {
  const TemporaryFolder folder;
  const auto first = make_thread_comms(1);
  auto holder = std::make_unique<Checkpointer>(folder.path(), CheckpointOptions{}, *first[0]);
  const auto second = make_thread_comms(1);
  EXPECT_NE(error_of([&] {
              Checkpointer(folder.path(), {}, *second[0]);
            }).find("another job trains in it"),
            std::string::npos);
  holder.reset();
  Checkpointer(folder.path(), {}, *second[0]);
}

TEST(Checkpoint, AveragesThatARunAddsAreNamed) {
  const TemporaryFolder folder;
  save_at(folder.path(), 1, 1, 0);
  auto tensors = make_tensors(0, 1, 0);
  tensors.model.emplace_back("ema.backbone.weight", torch::zeros({2, 2}));
  EXPECT_NE(error_of([&] {
              read_checkpoint(folder.path() / "step_000000001", tensors);
            }).find("resume with trainer.ema=0"),
            std::string::npos);
}

TEST(Checkpoint, SnapshotIsTakenAtTheSave) {
  const TemporaryFolder folder;
  run_thread_ranks(2, [&](Communicator& comm) {
    Checkpointer checkpointer(folder.path(), {}, comm);
    auto tensors = make_tensors(comm.rank(), 2, 5);
    checkpointer.save(make_meta(1), tensors, false);
    for (auto& rows : tensors.rows) rows.tensor.zero_();  // what the next step does
    for (auto& [name, tensor] : tensors.model) tensor.zero_();
    EXPECT_TRUE(checkpointer.finish());
  });
  auto found = make_tensors(0, 1, -1);
  read_checkpoint(folder.path() / "step_000000001", found);
  EXPECT_TRUE(torch::equal(found.rows[0].tensor, make_tensors(0, 1, 5).rows[0].tensor));
  EXPECT_TRUE(torch::equal(found.model[0].second, make_tensors(0, 1, 5).model[0].second));
}

}  // namespace
}  // namespace facetrain
