#include "trainer/report/run_evaluation.h"

#include <chrono>
#include <map>

#include "core/log.h"
#include "core/torch.h"
#include "data/image_codec.h"
#include "eval/protocol.h"
#include "trainer/model_loader.h"
#include "trainer/report/html.h"
#include "trainer/streams.h"

namespace facetrain {
namespace {

constexpr int kJpegQuality = 85;
constexpr int64_t kBatch = 64;

Picture picture(const Source& source, int64_t row) {
  const at::Tensor pixels = source.read(row).fields.at("image").contiguous();
  Image image{static_cast<int>(pixels.size(1)), static_cast<int>(pixels.size(0)), 3, {}};
  const auto* first = pixels.const_data_ptr<uint8_t>();
  image.pixels.assign(first, first + pixels.numel());
  const std::string key = source.key(row);  // the place in a shard where the path is not known
  return {data_uri("image/jpeg", encode_jpeg(image, kJpegQuality)),
          key == source.describe(row) ? fmt::format("image {}", row) : key};
}

// The hardest `count` pairs of each kind with their images.
std::vector<PairPicture> hard_pairs(const Verification& result, const Source& source,
                                    size_t count) {
  std::map<int64_t, double> thresholds;
  for (const auto& fold : result.folds) thresholds[fold.fold] = fold.threshold;
  std::vector<PairPicture> pictures;
  size_t taken[2] = {0, 0};
  for (const HardPair& pair : result.hardest) {
    if (taken[pair.same ? 1 : 0]++ >= count) continue;
    pictures.push_back({pair, pair.distance < thresholds.at(pair.fold), picture(source, pair.first),
                        picture(source, pair.second)});
  }
  return pictures;
}

std::vector<ProbePicture> hard_probes(const Identification& result, const Source& gallery,
                                      const Source& probes, size_t count) {
  std::vector<ProbePicture> pictures;
  for (const HardProbe& probe : result.hardest) {
    if (pictures.size() >= count) break;
    pictures.push_back({probe, picture(probes, probe.row), picture(gallery, probe.best_row)});
  }
  return pictures;
}

void evaluate_set(const EvaluationSet& set, const LoadedModel& model, c10::Device device,
                  size_t pictures, Communicator& comm, SetEvaluation& out) {
  const Evaluation evaluation = run_evaluation(set, embed_function(model, device), kBatch, comm);
  out.figures = evaluation.figures;
  out.verification = evaluation.verification;
  out.identification = evaluation.identification;
  if (out.verification) out.pairs = hard_pairs(*out.verification, *set.whole.front(), pictures);
  if (out.identification)
    out.probes = hard_probes(*out.identification, *set.whole.front(), *set.whole.back(), pictures);
}

// A list of the one item, so that a set that cannot be read does not take the others with it.
Config single(const ConfigNode& list, const ConfigNodePtr& item) {
  auto node = std::make_shared<ConfigNode>(list);
  node->list = {item};
  return Config(node);
}

std::string name_of(const ConfigNodePtr& item) {
  for (const char* key : {"name", "path", "gallery"})
    if (const auto value = item->find(key); value && !value->scalar.empty())
      return std::string(key) == "name" ? value->scalar
                                        : std::filesystem::path(value->scalar).filename().string();
  return "a set without name and path";
}

}  // namespace

// The squared distance d of unit vectors is 2 - 2 cos.
double SetEvaluation::cosine_threshold() const {
  double sum = 0;
  for (const auto& fold : verification->folds) sum += 1 - fold.threshold / 2;
  return sum / static_cast<double>(verification->folds.size());
}

RunEvaluation evaluate_run(const RunHistory& history, const RunEvaluationOptions& options,
                           Communicator& comm, c10::Device device) {
  std::vector<std::string> of_model, of_run;
  for (const auto& word : options.overrides)
    (word.starts_with("eval.") ? of_run : of_model).push_back(word);
  Config config = Config::parse(history.config, (history.run / "config.yaml").string());
  for (const auto& word : of_run)
    FT_CHECK(word.starts_with("eval.sets"),
             "command line: {}: of the section eval, report takes eval.sets only", word);
  config.override_with(of_run);
  const Config sets = config.section("eval").section("sets");
  resolve_evaluation_sets(sets);

  RunEvaluation evaluation;
  if (sets.node().list.empty()) {
    evaluation.problem = "eval.sets of the run's configuration names no set";
    return evaluation;
  }
  if (history.checkpoints.empty()) {
    evaluation.problem = "the run has no checkpoint yet";
    return evaluation;
  }
  LoadedModel model;
  try {
    model = load_model(history.run.string(), of_model, device);
  } catch (const std::exception& error) {
    if (!of_model.empty()) throw;  // these are the caller's own words
    evaluation.problem = error.what();
    log_warn("nothing is evaluated: {}", evaluation.problem);
    return evaluation;
  }
  evaluation.model = model.describe;
  for (const auto& item : sets.node().list) {
    SetEvaluation& set = evaluation.sets.emplace_back();
    set.name = name_of(item);
    const auto start = std::chrono::steady_clock::now();
    try {
      const auto opened = open_evaluation_sets(single(sets.node(), item), model.images);
      log_info("evaluating {} on {}", evaluation.model, set.name);
      evaluate_set(opened.front(), model, device, options.pictures, comm, set);
    } catch (const std::exception& error) {  // this set is missing; the page says why
      const std::string name = set.name;
      set = {};
      set.name = name;
      set.problem = error.what();
      log_warn("{} is not in the report: {}", set.name, set.problem);
    }
    set.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return evaluation;
}

}  // namespace facetrain
