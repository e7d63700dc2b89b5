#include "trainer/checkpoint.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <memory>
#include <set>
#include <sstream>

#include "core/durable_file.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// The names that only one side has: what somebody needs to see that this is another network's
// checkpoint.
void check_names(const fs::path& file, const std::set<std::string>& found,
                 const std::set<std::string>& wanted) {
  std::vector<std::string> missing, extra;
  std::set_difference(wanted.begin(), wanted.end(), found.begin(), found.end(),
                      std::back_inserter(missing));
  std::set_difference(found.begin(), found.end(), wanted.begin(), wanted.end(),
                      std::back_inserter(extra));
  if (missing.empty() && extra.empty()) return;
  const auto some = [](const std::vector<std::string>& names) {
    return names.empty()
               ? std::string("none")
               : fmt::format("{}{}", names.front(),
                             names.size() > 1 ? fmt::format(" and {} more", names.size() - 1) : "");
  };
  const auto is_average = [](const std::string& name) { return name.starts_with("ema."); };
  FT_CHECK(missing.empty() || !extra.empty() || !std::ranges::all_of(missing, is_average),
           "{}: this run averages its weights (trainer.ema), but its checkpoint holds no averages; "
           "resume with trainer.ema=0, or start a new run with trainer.ema and "
           "model.init=CHECKPOINT/model.safetensors",
           file.string());
  FT_FAIL(
      "{}: this checkpoint is of another network, loss or optimizer: it lacks {} and has {} beyond "
      "this run's; "
      "resume with the configuration that wrote it, or start a new run with "
      "model.init=CHECKPOINT/model.safetensors",
      file.string(), some(missing), some(extra));
}

void check_shape(const fs::path& file, const std::string& name, at::IntArrayRef found,
                 at::IntArrayRef wanted) {
  FT_CHECK(found == wanted,
           "{}: '{}' has shape {}, this run's has {}: the checkpoint is of another network "
           "(model.width, "
           "model.embedding, classifier.classes?); resume with the configuration that wrote it",
           file.string(), name, shape_text(found), shape_text(wanted));
}

void read_whole(const fs::path& path, const NamedTensors& tensors) {
  const SafetensorsFile file(path);
  std::set<std::string> found, wanted;
  for (const auto& [name, info] : file.tensors()) found.insert(name);
  for (const auto& [name, tensor] : tensors) wanted.insert(name);
  check_names(path, found, wanted);
  for (const auto& [name, tensor] : tensors) {
    check_shape(path, name, file.tensors().at(name).shape, tensor.sizes());
    tensor.copy_(file.read(name));
  }
}

struct Interval {
  int64_t begin, end, total;
};
Interval read_interval(const SafetensorsFile& file, const std::string& name) {
  const auto found = file.metadata().find(name);
  FT_CHECK(found != file.metadata().end(),
           "{}: tensor '{}' has no row range in __metadata__; the file is damaged",
           file.path().string(), name);
  Interval interval{};
  char comma{};
  std::istringstream text(found->second);
  text >> interval.begin >> comma >> interval.end >> comma >> interval.total;
  FT_CHECK(text && interval.begin <= interval.end && interval.end <= interval.total,
           "{}: the row range of '{}' reads '{}', wanted begin,end,total; the file is damaged",
           file.path().string(), name, found->second);
  return interval;
}

// Rows [begin, end) of one tensor from the files that hold parts of it. Every row must be there
// once.
void read_rows(const fs::path& checkpoint,
               const std::vector<std::unique_ptr<SafetensorsFile>>& files,
               const RowsTensor& target) {
  int64_t filled = 0;
  for (const auto& file : files) {
    const Interval part = read_interval(*file, target.name);
    FT_CHECK(part.total == target.total,
             "{}: '{}' has {} rows in all, this run's has {}: the checkpoint is of another set of "
             "classes; set "
             "classifier.classes to what it was trained with, or start a new run with "
             "model.init=CHECKPOINT/model.safetensors",
             file->path().string(), target.name, part.total, target.total);
    const int64_t begin = std::max(part.begin, target.begin), end = std::min(part.end, target.end);
    if (begin >= end) continue;
    auto rows = file->read_rows(target.name, begin - part.begin, end - part.begin);
    auto destination = target.tensor.narrow(0, begin - target.begin, end - begin);
    check_shape(file->path(), target.name, rows.sizes(), destination.sizes());
    destination.copy_(rows);
    filled += end - begin;
  }
  FT_CHECK(filled == target.end - target.begin,
           "{}: rows {} to {} of '{}' were wanted and {} found: a rows_<rank>.safetensors file is "
           "missing",
           checkpoint.string(), target.begin, target.end, target.name, filled);
}

}  // namespace

std::string checkpoint_name(int64_t step) { return fmt::format("step_{:09d}", step); }

std::optional<int64_t> checkpoint_step(const fs::path& folder) {
  const std::string name = folder.filename();
  int64_t step = 0;
  const auto [end, error] = std::from_chars(name.data() + std::min<size_t>(5, name.size()),
                                            name.data() + name.size(), step);
  if (error != std::errc() || step < 0 || name != checkpoint_name(step)) return std::nullopt;
  return step;
}

bool is_checkpoint(const fs::path& folder) { return fs::exists(folder / "meta.yaml"); }

std::optional<fs::path> newest_checkpoint(const fs::path& run) {
  // The names say it; `latest` is for people and scripts, and may be one behind after a kill
  // between two renames.
  std::optional<int64_t> newest;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(run, error))
    if (const auto step = checkpoint_step(item.path()); step && is_checkpoint(item.path()))
      newest = std::max(newest, step);
  if (!newest) return std::nullopt;
  return run / checkpoint_name(*newest);
}

fs::path follow_pointer(const fs::path& path) {
  const std::string word = path.filename();
  if ((word != "best" && word != "latest") || fs::is_directory(path)) return path;
  FT_CHECK(fs::exists(path), "there is no '{}': {}", path.string(),
           word == "best" ? "a run has one after its first evaluation with checkpoint.keep_best"
                          : "a run has one after its first checkpoint");
  std::ifstream in(path);
  std::string name;
  std::getline(in, name);
  const fs::path folder = path.parent_path() / name;
  FT_CHECK(checkpoint_step(folder) && is_checkpoint(folder),
           "'{}' names the checkpoint '{}', which is not there", path.string(), name);
  return folder;
}

CheckpointMeta read_meta(const fs::path& checkpoint) {
  const fs::path file = checkpoint / "meta.yaml";
  FT_CHECK(fs::exists(file), "{}: not a checkpoint: it has no meta.yaml", checkpoint.string());
  CheckpointMeta meta;
  try {
    const YAML::Node yaml = YAML::LoadFile(file);
    const auto version = yaml["version"].as<int64_t>();
    FT_CHECK(version <= kCheckpointVersion,
             "{}: version {} of the format; this program reads up to {}: use a newer facetrain",
             file.string(), version, kCheckpointVersion);
    TrainState& state = meta.state;
    state.step = yaml["step"].as<int64_t>();
    state.samples = yaml["samples"].as<int64_t>();
    state.updates = yaml["updates"].as<int64_t>();
    state.skipped = yaml["skipped"].as<int64_t>();
    state.skipped_in_row = yaml["skipped_in_row"].as<int64_t>();
    state.loss_scale = yaml["loss_scale"].as<double>();
    state.scale_streak = yaml["scale_streak"].as<int64_t>();
    state.has_best = static_cast<bool>(yaml["best"]);
    if (state.has_best) state.best = yaml["best"].as<double>();
    meta.seed = yaml["seed"].as<uint64_t>();
    meta.world_size = yaml["world_size"].as<int>();
    YAML::Emitter config;
    config << yaml["config"];
    meta.config = std::string(config.c_str()) + "\n";
  } catch (const YAML::Exception& error) {
    FT_FAIL(
        "{}:{}: damaged: {}; remove this folder, and the run resumes from the checkpoint before it",
        file.string(), error.mark.line + 1, error.msg);
  }
  return meta;
}

void write_meta(const fs::path& checkpoint, const CheckpointMeta& meta) {
  YAML::Emitter out;
  out.SetDoublePrecision(17);
  const TrainState& state = meta.state;
  out << YAML::BeginMap;
  out << YAML::Key << "version" << YAML::Value << kCheckpointVersion;
  out << YAML::Key << "step" << YAML::Value << state.step;
  out << YAML::Key << "samples" << YAML::Value << state.samples;
  out << YAML::Key << "updates" << YAML::Value << state.updates;
  out << YAML::Key << "skipped" << YAML::Value << state.skipped;
  out << YAML::Key << "skipped_in_row" << YAML::Value << state.skipped_in_row;
  out << YAML::Key << "loss_scale" << YAML::Value << state.loss_scale;
  out << YAML::Key << "scale_streak" << YAML::Value << state.scale_streak;
  if (state.has_best) out << YAML::Key << "best" << YAML::Value << state.best;
  out << YAML::Key << "seed" << YAML::Value << meta.seed;
  out << YAML::Key << "world_size" << YAML::Value << meta.world_size;
  out << YAML::Key << "config" << YAML::Value << YAML::Load(meta.config);
  out << YAML::EndMap;
  write_file_durably(checkpoint / "meta.yaml", std::string(out.c_str()) + "\n");
}

void read_checkpoint(const fs::path& checkpoint, const CheckpointTensors& tensors) {
  const torch::NoGradGuard no_grad;
  read_whole(checkpoint / "model.safetensors", tensors.model);
  read_whole(checkpoint / "optimizer.safetensors", tensors.optimizer);
  std::vector<std::unique_ptr<SafetensorsFile>> files;
  std::set<std::string> found, wanted;
  for (int rank = 0; fs::exists(checkpoint / fmt::format("rows_{}.safetensors", rank)); ++rank) {
    files.push_back(
        std::make_unique<SafetensorsFile>(checkpoint / fmt::format("rows_{}.safetensors", rank)));
    for (const auto& [name, info] : files.back()->tensors()) found.insert(name);
  }
  for (const auto& target : tensors.rows) wanted.insert(target.name);
  check_names(checkpoint / "rows_*.safetensors", found, wanted);
  for (const auto& target : tensors.rows) read_rows(checkpoint, files, target);
}

}  // namespace facetrain
