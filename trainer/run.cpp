#include "trainer/run.h"

#include <algorithm>
#include <fstream>
#include <optional>

#include "comm/world.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "core/random.h"
#include "losses/sharded_classifier.h"
#include "models/layers.h"
#include "trainer/session.h"
#include "trainer/streams.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

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
      FT_CHECK(!fs::exists(run) || fs::is_directory(run),
               "run folder {} is a file; choose another `run`", run.string());
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

std::string words(const Duration& every) { return every.text() + (every.epochs ? "" : " steps"); }

RunFacts gather_facts(const RunOptions& options, const Config& config, const Stream& stream,
                      Recipe& recipe, const ParameterList& parameters, const LoopOptions& loop,
                      const RunPlace& place) {
  RunFacts facts;
  facts.program = place.program;
  facts.place = place.description;
  facts.run = options.run;
  facts.recipe = config.section("recipe").name();
  facts.network = config.section("model").name();
  facts.optimizer = config.section("optimizer").name();
  facts.schedule = config.section("schedule").name();
  facts.precision = options.trainer.precision;
  facts.device = options.device;
  facts.ranks = place.comm.size();
  facts.threads = at::get_num_threads();
  facts.identities = count_identities(stream.sets);
  for (const auto& set : stream.sets) {
    facts.images += set->size();
    facts.sets.push_back(set->name());
  }
  if (config.has("loss")) facts.loss = config.section("loss").name();
  if (config.has("classifier")) {
    facts.classes = config.section("classifier").as<ClassifierOptions>().classes;
    if (facts.classes == 0) facts.classes = facts.identities;
  }
  for (const auto& parameter : parameters.trained)
    (parameter.owner ? facts.sharded : facts.parameters) += count_numbers(parameter);
  facts.frozen = parameters.frozen;
  facts.image_size = recipe.exported().image_size();
  facts.batch_size = options.data.batch_size;
  facts.accumulate = options.trainer.accumulate;
  facts.steps = loop.total_steps;
  facts.steps_per_epoch = loop.steps_per_epoch;
  if (options.checkpoint.every.value > 0) facts.checkpoint_every = words(options.checkpoint.every);
  return facts;
}

void print_groups(const Optimizer& optimizer, const ParameterList& parameters) {
  for (const auto& group : optimizer.groups()) {
    log_info("group: {}", describe(group));
    for (const auto& parameter : group.parameters)
      log_info("  {} [{}]{}", parameter.name, fmt::join(parameter.tensor.sizes(), ", "),
               parameter.owner ? fmt::format(" rows {} ... {} of {}", parameter.shard.begin,
                                             parameter.shard.end, parameter.shard.total)
                               : "");
  }
  for (const auto& name : parameters.frozen) log_info("frozen: {}", name);
}

// The main stream and those that the recipe asks for, each with an order of its own.
Feed make_feed(Stream& main, const Config& config, const Recipe& recipe, const ImageOptions& images,
               Communicator& comm, const c10::Device& device) {
  const auto options = config.as<RunOptions>();
  const Config streams = config.section("data").section("streams");
  Feed feed(std::move(main.loader));
  const auto wanted = recipe.streams();
  for (const auto& name : wanted) {
    FT_CHECK(
        streams.has(name),
        "{}: recipe '{}' wants a stream '{}'; add data.streams.{}: {{train: .., batch_size: ..}}",
        streams.place(), config.section("recipe").name(), name, name);
    const Config section = streams.section(name);
    ImageOptions of_stream = images;
    if (const int64_t size = section.as<DataOptions>().size; size > 0) of_stream.size = size;
    feed.add_stream(name, open_stream(section, of_stream, random_key(options.seed, name_key(name)),
                                      options.trainer.accumulate, comm, device)
                              .loader);
  }
  for (const auto& [name, section] : streams.node().map)
    FT_CHECK(std::find(wanted.begin(), wanted.end(), name) != wanted.end(),
             "{}: recipe '{}' takes no stream of this name; it takes: {}", section->place(),
             config.section("recipe").name(),
             wanted.empty() ? "none" : fmt::format("{}", fmt::join(wanted, ", ")));
  return feed;
}

int64_t total_steps(const TrainerOptions& trainer, double steps_per_epoch) {
  return trainer.steps >= 0 ? trainer.steps : Duration{trainer.epochs, true}.steps(steps_per_epoch);
}

LoopOptions loop_options(const RunOptions& options, int64_t epoch_size,
                         const std::string& resolved) {
  LoopOptions loop;
  loop.steps_per_epoch =
      static_cast<double>(epoch_size) / static_cast<double>(options.data.batch_size);
  loop.total_steps = total_steps(options.trainer, loop.steps_per_epoch);
  loop.checkpoint_every = options.checkpoint.every;
  loop.evaluate_every = options.eval.every;
  loop.log_every = options.log.every;
  loop.seed = options.seed;
  loop.batch_size = options.data.batch_size;
  loop.trainer = options.trainer;
  loop.keep_best = options.checkpoint.keep_best;
  loop.config = resolved;
  return loop;
}

// Rank 0's choice: on network file systems the others may see an older list of the folder.
// **Collective.**
std::optional<fs::path> common_newest_checkpoint(const fs::path& run, Communicator& comm) {
  const auto step = at::full({1}, -1, at::kLong);
  if (comm.rank() == 0)
    if (const auto newest = newest_checkpoint(run)) step[0] = *checkpoint_step(*newest);
  comm.broadcast(step, 0).wait();
  if (step.item<int64_t>() < 0) return std::nullopt;
  return run / checkpoint_name(step.item<int64_t>());
}

// What a resumed run may not change: the order of the data and the epochs count steps of one size.
void check_resumable(const fs::path& checkpoint, const RunOptions& before, const RunOptions& now,
                     int64_t step, int64_t total) {
  FT_CHECK(
      step <= total,
      "the run is at step {}; {} asks for {} in all: give a larger number; nothing was changed",
      step,
      now.trainer.steps >= 0 ? fmt::format("trainer.steps={}", now.trainer.steps)
                             : fmt::format("trainer.epochs={:g}", now.trainer.epochs),
      total);
  FT_CHECK(before.data.batch_size == now.data.batch_size,
           "data.batch_size: this run has {}, the resume asks for {}, and its data order and "
           "schedule count steps of {} images; resume without it, or start a new run from these "
           "weights with model.init={}",
           before.data.batch_size, now.data.batch_size, before.data.batch_size,
           (checkpoint / "model.safetensors").string());
}

// A schedule spans the whole run: with another length the rate at this step is another one.
void tell_rate(const Schedule& schedule, double lr, int64_t step, int64_t total_before,
               const LoopOptions& loop) {
  if (total_before == loop.total_steps || step >= loop.total_steps) return;
  const int64_t last = std::max<int64_t>(total_before - 1, 0);  // a finished run has no rate after
  const double now = lr * schedule.factor({step, loop.total_steps, loop.steps_per_epoch});
  const double before =
      lr * schedule.factor({std::min(step, last), total_before, loop.steps_per_epoch});
  if (now != before) log_info("lr goes on at {:.3g} (with the old length: {:.3g})", now, before);
}

// Fills the live tensors and the state from the newest checkpoint, if there is one yet. Only when
// it fits on every rank does the run folder take the new configuration.
void restore(const RunOptions& options, const LoopOptions& loop, const Schedule& schedule,
             double lr, const CheckpointTensors& tensors, Communicator& comm, TrainState& state) {
  if (const auto newest = common_newest_checkpoint(options.run, comm)) {
    const CheckpointMeta meta = read_meta(*newest);
    const auto before = Config::parse(meta.config, newest->string()).as<RunOptions>();
    check_resumable(*newest, before, options, meta.state.step, loop.total_steps);
    const TrainState fresh = state;
    state = meta.state;
    if (before.trainer.precision != options.trainer.precision) {  // a scale of its own
      state.loss_scale = fresh.loss_scale;
      state.scale_streak = 0;
    }
    // The best of one figure is no bound on another.
    if (before.checkpoint.keep_best != options.checkpoint.keep_best) state.has_best = false;
    read_checkpoint(*newest, tensors);
    log_info("resumed from {} (step {})", newest->string(), state.step);
    tell_rate(schedule, lr, state.step, total_steps(before.trainer, loop.steps_per_epoch), loop);
  } else {
    log_info("{} has no checkpoint yet: starting at step 0", options.run);
  }
  comm.barrier();
  if (comm.rank() == 0) write_file_durably(fs::path(options.run) / "config.yaml", loop.config);
}

void check_warmup(const Schedule& schedule, const LoopOptions& loop) {
  const int64_t warmup = schedule.warmup_steps(loop.steps_per_epoch);
  if (loop.total_steps > 0 && warmup > loop.total_steps && log_rank() == 0)
    log_warn("schedule.warmup is {} steps, the run has {}: the full rate is never reached", warmup,
             loop.total_steps);
}

// The sets of eval.sets; paths that a run does not use are not opened.
std::vector<EvaluationSet> open_evaluation(const Config& config, const ImageOptions& images) {
  const Config eval = config.section("eval");
  if (eval.as<EvalOptions>().every.value == 0) return {};
  try {
    return open_evaluation_sets(eval.section("sets"), images);
  } catch (const Error& error) {
    FT_FAIL("{}; without evaluation: eval.sets=[]", error.what());
  }
}

// What can be known of it before the first evaluation.
void check_keep_best(const RunOptions& options, const std::vector<EvaluationSet>& sets) {
  const std::string& figure = options.checkpoint.keep_best;
  if (figure.empty()) return;
  FT_CHECK(!sets.empty(),
           "checkpoint.keep_best is '{}', but nothing is evaluated during this run: name a set in "
           "eval.sets and set eval.every",
           figure);
  std::vector<std::string> names;
  for (const auto& set : sets) names.push_back(set.name);
  FT_CHECK(
      std::ranges::any_of(names, [&](const auto& name) { return figure.starts_with(name + "."); }),
      "checkpoint.keep_best: '{}' is a figure of none of eval.sets ({}); wanted SET.FIGURE, "
      "as in {}.accuracy",
      figure, fmt::join(names, ", "), names.front());
}

void print_end(RunEnd end, const fs::path& run, const TrainState& state) {
  const std::string name = checkpoint_name(state.step);
  if (end == RunEnd::kDone)
    log_info("done: {} steps, checkpoint {}", state.step, (run / name).string());
  else
    log_info("signal: checkpoint {} written; continue with facetrain train --resume {}", name,
             run.string());
}

// fp32 is fp32: LibTorch would let a GPU's convolutions round their factors to TF32.
void set_arithmetic(bool deterministic) {
  at::globalContext().setAllowTF32CuDNN(false);
  if (!deterministic) return;
  at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
  at::globalContext().setDeterministicCuDNN(true);
  at::globalContext().setBenchmarkCuDNN(false);
}

}  // namespace

Config run_config(const fs::path& run) {
  const fs::path file = run / "config.yaml";
  FT_CHECK(fs::exists(run),
           "no run folder: there is no '{0}', and so no config.yaml; start a run with facetrain "
           "train CONFIG run={0}",
           run.string());
  FT_CHECK(
      fs::exists(file),
      "{}: not a run folder: it has no config.yaml; start a run with facetrain train CONFIG run={}",
      run.string(), run.string());
  return Config::load(file);
}

RunEnd run_training(const RunRequest& request, const RunPlace& place) {
  const Config config = request.config.clone();  // of this rank, which may be a thread
  const auto options = config.as<RunOptions>();
  Communicator& comm = place.comm;
  const c10::Device device = place.device;
  const Precision precision = parse_precision(options.trainer.precision, device);
  const std::string resolved = config.dump();
  check_same_on_all_ranks(comm, "the configuration", resolved);
  set_arithmetic(options.trainer.deterministic);

  // The classifier follows the data's identities, and the data's image size follows the network.
  const Config data = config.section("data");
  const RecipeContext context{config,
                              comm,
                              device,
                              options.seed,
                              count_identities(data, comm),
                              options.data.size,
                              Normalization::parse(data.section("normalize"))};
  const auto recipe = Recipes::get().create(config.section("recipe"), context);
  const ImageOptions images{recipe->exported().image_size(), options.data.fit, recipe->columns()};
  Stream stream = open_stream(data, images, options.seed, options.trainer.accumulate, comm, device);
  Feed feed = make_feed(stream, config, *recipe, images, comm, device);
  recipe->to(device);
  to_dtype(*recipe, parameter_type(precision));
  to_channels_last(*recipe);
  ParameterList parameters = list_parameters(*recipe, options.trainer.freeze);
  const auto optimizer = Optimizers::get().create(config.section("optimizer"), parameters.trained);
  const auto schedule = Schedules::get().create(config.section("schedule"));
  const LoopOptions loop = loop_options(options, stream.sampler->epoch_size(), resolved);
  const auto sets = open_evaluation(config, images);
  check_keep_best(options, sets);
  FT_CHECK(!parameters.trained.empty(),
           "trainer.freeze: nothing is left to train; take a pattern out of [{}]",
           fmt::join(options.trainer.freeze, ", "));
  FT_CHECK(options.trainer.clip == 0 || options.trainer.clip_scope != "tensor" ||
               parameters.own_updates.empty(),
           "trainer.clip_scope is 'tensor', but the rows of '{}' are updated as they are computed, "
           "before their norm is known: take 'all' or 'replicated'",
           parameters.own_updates.front().first);

  if (!request.resume) make_run_folder(options, resolved, comm);
  RunFacts facts = gather_facts(options, config, stream, *recipe, parameters, loop, place);
  facts.lr = optimizer->options().lr;
  for (const auto& group : optimizer->groups()) facts.groups.push_back(describe(group));
  for (const auto& set : sets) facts.evaluation_sets.push_back(set.name);
  facts.evaluate_every = words(options.eval.every);
  print_banner(facts);
  check_warmup(*schedule, loop);
  if (request.verbose) print_groups(*optimizer, parameters);
  GradReducer reducer(
      parameters.replicated(), comm,
      {static_cast<int64_t>(options.trainer.bucket_mb * (1 << 20)), options.trainer.overlap});
  Ema ema(options.trainer.ema, parameters.replicated());
  Checkpointer checkpointer(options.run, options.checkpoint, comm);
  TrainState state;
  start_loss_scale(precision, state);
  if (request.resume)
    restore(options, loop, *schedule, optimizer->options().lr,
            live_tensors(*recipe, parameters, *optimizer, ema), comm, state);
  if (state.step > 0 && state.step >= loop.total_steps)
    log_info("the run has its {} steps already; for more, add trainer.steps=N or trainer.epochs=N",
             loop.total_steps);
  SessionLog session(facts, comm.rank(), state.step);
  Reporter reporter(options.run, comm.rank(), state.step, options.log.tensorboard);
  Trainer trainer({*recipe, feed, parameters, *optimizer, *schedule, reducer, ema, checkpointer,
                   reporter, comm, device, sets},
                  loop);
  const RunEnd end = trainer.run(state);
  session.end(state.step, end == RunEnd::kDone ? "done" : "signal");
  print_end(end, options.run, state);
  return end;
}

}  // namespace facetrain
