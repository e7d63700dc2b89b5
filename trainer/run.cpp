#include "trainer/run.h"

#include <fstream>

#include "comm/world.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "eval/pair_set.h"
#include "models/layers.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

struct SetOptions {
  std::string path;
  double weight = 0;
  void fields(auto& f) {
    f("path", path, "shard folder, shard, folder:PATH or list:FILE");
    f("weight", weight, at_least(0), "share of the samples; 0 everywhere: by size");
  }
};

std::vector<SetOptions> parse_sets(const Config& section) {
  std::vector<SetOptions> sets;
  const ConfigNode& node = section.node();
  if (node.kind == ConfigNode::Kind::kScalar) sets.push_back({node.scalar, 0});
  for (const auto& item : node.list) {
    if (item->kind == ConfigNode::Kind::kScalar)
      sets.push_back({item->scalar, 0});
    else
      sets.push_back(Config(item).as<SetOptions>());
  }
  FT_CHECK(!sets.empty(),
           "{}: no training data; set data.train to a shard folder, folder:PATH or list:FILE "
           "(`facetrain shards synth --out sets/synth ...` makes some)",
           section.place());
  size_t weighted = 0;
  for (const auto& set : sets) weighted += set.weight > 0;
  FT_CHECK(weighted == 0 || weighted == sets.size(),
           "{}: {} of {} sets have a weight; give one to all, or to none", section.place(),
           weighted, sets.size());
  return sets;
}

struct EvalSetOptions {
  std::string name, path, pairs;
  bool flip = true;
  void fields(auto& f) {
    f("name", name, "of the figures: NAME.accuracy");
    f("path", path, "shard folder, or folder of images");
    f("pairs", pairs, "pairs.csv (fold,i,j,same), or LFW's pairs.txt for image folders");
    f("flip", flip, "add the embedding of the mirrored image");
  }
};

std::vector<EvaluationSet> open_evaluation_sets(const Config& section, const ImageOptions& images) {
  std::vector<EvaluationSet> sets;
  for (const auto& item : section.node().list) {
    const auto options = Config(item).as<EvalSetOptions>();
    const std::string place = Config(item).place();
    FT_CHECK(!options.path.empty() && !options.pairs.empty(),
             "{}: an evaluation set wants `path` and `pairs`", place);
    FT_CHECK(fs::exists(options.pairs), "{}: there is no pair list '{}'", place, options.pairs);
    const std::string name =
        options.name.empty() ? fs::path(options.path).filename().string() : options.name;
    PairSet set = open_pair_set(options.path, options.pairs, images);
    sets.push_back({name, std::move(set.source), std::move(set.pairs), options.flip});
  }
  return sets;
}

std::vector<std::shared_ptr<const Source>> open_sets(const std::vector<SetOptions>& options,
                                                     const ImageOptions& images) {
  std::vector<std::shared_ptr<const Source>> sets;
  for (const auto& set : options) sets.push_back(open_source(set.path, images));
  return sets;
}

int64_t count_identities(const std::vector<std::shared_ptr<const Source>>& sets) {
  int64_t identities = 0;
  for (const auto& set : sets) identities += set->identities();
  return identities;
}

// The sources, the order, the transforms and the threads of one stream.
struct Stream {
  std::vector<std::shared_ptr<const Source>> sets;
  std::shared_ptr<Sampler> sampler;
  std::unique_ptr<Loader> loader;
};

Stream open_stream(const Config& section, const DataOptions& data, const ImageOptions& images,
                   const RunOptions& options, Communicator& comm, const c10::Device& device) {
  Stream stream;
  SamplerInput input;
  const auto sets = parse_sets(section.section("train"));
  stream.sets = open_sets(sets, images);
  for (const auto& set : sets)
    if (set.weight > 0) input.weights.push_back(set.weight);
  input.sets = stream.sets;
  input.seed = options.seed;
  input.batch_size = data.batch_size;
  stream.sampler = Samplers::get().create(section.section("sampler"), input);
  FT_CHECK(data.batch_size <= stream.sampler->epoch_size(),
           "data.batch_size is {}, but the training set has {} images; lower it or add data",
           data.batch_size, stream.sampler->epoch_size());
  const int64_t micro = data.batch_size / options.trainer.accumulate;
  FT_CHECK(micro >= comm.size(),
           "data.batch_size {} in {} micro-batches gives {} rows for {} ranks; every rank needs "
           "one: raise data.batch_size or lower "
           "trainer.accumulate",
           data.batch_size, options.trainer.accumulate, micro, comm.size());
  std::vector<std::pair<std::string, std::shared_ptr<const Transform>>> transforms;
  if (data.flip) {
    Config flip;
    flip.set_default_name("flip");
    transforms.emplace_back("flip", Transforms::get().create(flip));
  }
  for (const auto& item : section.section("transforms").node().list)
    transforms.emplace_back(Config(item).name(), Transforms::get().create(Config(item)));
  LoaderOptions loader;
  loader.batch_size = data.batch_size;
  loader.accumulate = options.trainer.accumulate;
  loader.workers = data.workers;
  loader.prefetch = data.prefetch;
  loader.corrupt = data.corrupt;
  loader.seed = options.seed;
  loader.rank = comm.rank();
  loader.size = comm.size();
  loader.device = device;
  stream.loader = std::make_unique<Loader>(stream.sets, stream.sampler, transforms, loader);
  return stream;
}

// Makes the folder of a new run, which never writes over an old one.
void make_run_folder(const RunOptions& options, const std::string& config, Communicator& comm) {
  FT_CHECK(!options.run.empty(), "run: no run folder; set run=runs/NAME");
  const fs::path run = options.run;
  const auto state = at::zeros({1}, at::kLong);
  std::string problem;
  if (comm.rank() == 0) {
    try {
      FT_CHECK(!fs::exists(run) || fs::is_empty(run),
               "run folder {} already exists; resume it (facetrain train --resume {}), or choose "
               "another `run`",
               run.string(), run.string());
      fs::create_directories(run);
      write_file_durably(run / "config.yaml", config);
    } catch (const std::exception& error) {
      problem = error.what();
      state[0] = 1;
    }
  }
  comm.broadcast(state, 0).wait();
  if (state.item<int64_t>() == 0) return;
  FT_CHECK(comm.rank() != 0, "{}", problem);
  comm.barrier();  // rank 0 reports; this rank waits to be ended with the job
}

void print_banner(const RunOptions& options, const Config& config, const Stream& stream,
                  Recipe& recipe, const ParameterList& parameters, const std::string& place,
                  int64_t total_steps) {
  int64_t images = 0, trained = 0, sharded = 0;
  std::vector<std::string> names;
  for (const auto& set : stream.sets) {
    images += set->size();
    names.push_back(set->name());
  }
  for (const auto& parameter : parameters.trained) {
    if (parameter.owner)
      sharded += parameter.shard.total *
                 (parameter.tensor.numel() / std::max<int64_t>(parameter.tensor.size(0), 1));
    else
      trained += parameter.tensor.numel();
  }
  const double epoch = static_cast<double>(stream.sampler->epoch_size());
  log_info("facetrain {}  {}", FACETRAIN_VERSION, place);
  log_info("data      {}: {} images of {} identities, batches of {} at {} px",
           fmt::join(names, ", "), images, count_identities(stream.sets), options.data.batch_size,
           recipe.exported().image_size());
  log_info("network   {}: {:.2f} M parameters, {:.2f} M sharded, {} frozen tensors; {}",
           config.section("model").name(), static_cast<double>(trained) / 1e6,
           static_cast<double>(sharded) / 1e6, parameters.frozen.size(), options.trainer.precision);
  log_info("training  {} steps ({:.2f} epochs), {} {}, lr {} {}, accumulate {}", total_steps,
           static_cast<double>(total_steps * options.data.batch_size) / epoch,
           config.section("recipe").name(), config.section("loss").name("-"),
           config.section("optimizer").name(), config.section("schedule").name(),
           options.trainer.accumulate);
  log_info("run       {}", options.run);
}

void print_groups(const Optimizer& optimizer, const ParameterList& parameters) {
  for (const auto& group : optimizer.groups()) {
    log_info("group: lr x {}, weight decay {}", group.lr_scale, group.weight_decay);
    for (const auto& parameter : group.parameters)
      log_info("  {} [{}]{}", parameter.name, fmt::join(parameter.tensor.sizes(), ", "),
               parameter.owner ? fmt::format(" rows {} ... {} of {}", parameter.shard.begin,
                                             parameter.shard.end, parameter.shard.total)
                               : "");
  }
  for (const auto& name : parameters.frozen) log_info("frozen: {}", name);
}

void set_determinism(bool deterministic) {
  if (!deterministic) return;
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicCuDNN(true);
  at::globalContext().setBenchmarkCuDNN(false);
}

}  // namespace

Config run_config(const fs::path& run) {
  const fs::path file = run / "config.yaml";
  FT_CHECK(
      fs::exists(file),
      "{}: not a run folder: it has no config.yaml; start a run with facetrain train CONFIG run={}",
      run.string(), run.string());
  return Config::load(file);
}

RunEnd run_training(const RunRequest& request, const RunPlace& place) {
  const Config& config = request.config;
  const auto options = config.as<RunOptions>();
  Communicator& comm = place.comm;
  const c10::Device device = place.device;
  const Precision precision = parse_precision(options.trainer.precision, device);
  const std::string resolved = config.dump();
  check_same_on_all_ranks(comm, "the configuration", resolved);
  set_determinism(options.trainer.deterministic);

  // The classifier follows the data's identities, and the data's image size follows the network.
  const Config data = config.section("data");
  const int64_t identities = count_identities(
      open_sets(parse_sets(data.section("train")), ImageOptions{0, options.data.fit, {}}));
  const RecipeContext context{config,
                              comm,
                              device,
                              options.seed,
                              identities,
                              options.data.size,
                              Normalization::parse(data.section("normalize"))};
  const auto recipe = Recipes::get().create(config.section("recipe"), context);
  const ImageOptions images{recipe->exported().image_size(), options.data.fit, recipe->columns()};
  Stream stream = open_stream(data, options.data, images, options, comm, device);
  recipe->to(device);
  to_dtype(*recipe, parameter_type(precision));
  to_channels_last(*recipe);
  ParameterList parameters = list_parameters(*recipe, options.trainer.freeze);
  const auto optimizer = Optimizers::get().create(config.section("optimizer"), parameters.trained);
  const auto schedule = Schedules::get().create(config.section("schedule"));

  LoopOptions loop;
  loop.steps_per_epoch = static_cast<double>(stream.sampler->epoch_size()) /
                         static_cast<double>(options.data.batch_size);
  loop.total_steps = options.trainer.steps >= 0
                         ? options.trainer.steps
                         : Duration{options.trainer.epochs, true}.steps(loop.steps_per_epoch);
  loop.checkpoint_every = options.checkpoint.every.steps(loop.steps_per_epoch);
  loop.evaluate_every = options.eval.every.steps(loop.steps_per_epoch);
  loop.log_every = options.log.every;
  loop.seed = options.seed;
  loop.batch_size = options.data.batch_size;
  loop.trainer = options.trainer;
  loop.keep_best = options.checkpoint.keep_best;
  loop.config = resolved;

  const auto sets = open_evaluation_sets(config.section("eval").section("sets"), images);
  if (!request.resume) make_run_folder(options, resolved, comm);
  print_banner(options, config, stream, *recipe, parameters, place.description, loop.total_steps);
  if (request.verbose) print_groups(*optimizer, parameters);

  Feed feed(std::move(stream.loader));
  GradReducer reducer(
      parameters.replicated(), comm,
      {static_cast<int64_t>(options.trainer.bucket_mb * (1 << 20)), options.trainer.overlap});
  Ema ema(options.trainer.ema, parameters.replicated());
  Checkpointer checkpointer(options.run, options.checkpoint, comm);
  const auto newest = request.resume ? newest_checkpoint(options.run) : std::nullopt;
  TrainState state;
  start_loss_scale(precision, state);
  if (newest) state = read_meta(*newest).state;
  Reporter reporter(options.run, comm.rank(), state.step);
  Trainer trainer({*recipe, feed, parameters, *optimizer, *schedule, reducer, ema, checkpointer,
                   reporter, comm, device, sets},
                  loop);
  if (newest) {
    read_checkpoint(*newest, trainer.tensors());
    comm.barrier();  // it fits on every rank: only now the run takes the new configuration
    if (comm.rank() == 0) write_file_durably(fs::path(options.run) / "config.yaml", resolved);
    log_info("resumed from {} (step {})", newest->string(), state.step);
    if (state.step >= loop.total_steps)
      log_info(
          "the run has its {} steps already; for more, add trainer.steps=N or trainer.epochs=N",
          loop.total_steps);
  } else if (request.resume) {
    log_info("{} has no checkpoint yet: starting at step 0", options.run);
  }
  const RunEnd end = trainer.run(state);
  if (end == RunEnd::kDone)
    log_info("done: {} steps, checkpoint {}", state.step,
             (fs::path(options.run) / checkpoint_name(state.step)).string());
  else
    log_info("signal: checkpoint {} written; continue with facetrain train --resume {}",
             checkpoint_name(state.step), options.run);
  return end;
}

}  // namespace facetrain
