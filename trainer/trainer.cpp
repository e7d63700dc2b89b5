#include "trainer/trainer.h"

#include <cmath>
#include <ranges>

#include "comm/deadline.h"
#include "comm/world.h"
#include "core/log.h"
#include "core/step_context.h"
#include "trainer/figures.h"

namespace facetrain {
namespace {

// Of the whole tensor or of this step's rows; undefined where there is none, or where the module
// updates itself.
torch::Tensor gradient_of(const Parameter& parameter) {
  if (parameter.own_update) return {};
  if (!parameter.owner) return parameter.tensor.grad();
  const auto rows = parameter.owner->row_gradient(parameter.shard.name);
  return rows.defined() ? rows : parameter.tensor.grad();
}

}  // namespace

CheckpointTensors live_tensors(Recipe& recipe, const ParameterList& parameters,
                               Optimizer& optimizer, const Ema& ema) {
  CheckpointTensors all;
  const auto& sharded = parameters.sharded;
  // `owner`: the parameter or buffer whose rows a tensor follows.
  const auto add = [&](NamedTensors& replicated, const std::string& name,
                       const torch::Tensor& tensor, const std::string& owner) {
    const auto found = sharded.find(owner);
    if (found == sharded.end())
      replicated.emplace_back(name, tensor.detach());
    else
      all.rows.push_back(
          {name, tensor.detach(), found->second.begin, found->second.end, found->second.total});
  };
  for (const auto& item : recipe.named_parameters())
    add(all.model, item.key(), item.value(), item.key());
  for (const auto& item : recipe.named_buffers())
    add(all.model, item.key(), item.value(), item.key());
  for (const auto& [name, tensor] : ema.tensors()) add(all.model, name, tensor, "");
  for (const auto& state : optimizer.state())
    add(all.optimizer, state.name, state.tensor, state.parameter->name);
  for (const auto& [module, update] : parameters.own_updates)
    for (const auto& state : update->own_state()) {
      const std::string parameter = join_name(module, state.parameter);
      add(all.optimizer, parameter + "." + state.name, state.tensor, parameter);
    }
  return all;
}

Trainer::Trainer(TrainerParts parts, LoopOptions options)
    : parts_(std::move(parts)),
      options_(std::move(options)),
      precision_(parse_precision(options_.trainer.precision, parts_.device)) {
  for (const auto& module : parts_.recipe.modules(true))
    if (auto* deferred = dynamic_cast<Deferred*>(module.get())) deferred_.push_back(deferred);
}

RunEnd Trainer::run(TrainState& state) {
  state_ = &state;
  parts_.feed.seek(state.step);
  parts_.reporter.start_clock(state.step, state.samples);
  if (state.step == 0 && options_.total_steps == 0) save(false);
  while (state.step < options_.total_steps) {
    const Progress at = progress();
    std::vector<Batch> batches;
    {
      const auto timed = clock_.time("data");
      batches = parts_.feed.next();
    }
    backward(batches, at);
    const Verdict verdict = judge();
    if (verdict.finite)
      update(verdict, at);
    else
      skip(at);
    parts_.checkpointer.conclude(verdict.parts_written, verdict.parts_failed);

    ++state.step;
    state.samples += options_.batch_size;
    const bool last = state.step == options_.total_steps;
    if (verdict.signal) restore_all_deadlines();  // all ranks are here: the save may take its time
    bool is_best = false;
    if (options_.log_every > 0 && (last || state.step % options_.log_every == 0)) log(verdict, at);
    if (due(options_.evaluate_every) || (last && options_.evaluate_every.value > 0))
      evaluate(is_best);
    if (due(options_.checkpoint_every) || last || is_best || verdict.signal) save(is_best);
    if (verdict.signal && !last) {
      FT_CHECK(parts_.checkpointer.finish(),
               "the checkpoint asked for by a signal could not be written; see the warning above");
      return RunEnd::kCheckpointedOnSignal;
    }
  }
  FT_CHECK(parts_.checkpointer.finish(),
           "the last checkpoint could not be written; see the warning above, make room and resume "
           "the run");
  return RunEnd::kDone;
}

Progress Trainer::progress() const {
  return {state_->step, options_.total_steps, options_.steps_per_epoch};
}

std::map<std::string, double> Trainer::global_counts(const std::vector<Batch>& batches) {
  auto counts = parts_.recipe.counts(batches);
  if (counts.empty()) return {};
  std::vector<double> local;
  for (const auto& [name, count] : counts) local.push_back(count);
  const auto sums = at::tensor(local, at::kDouble);
  parts_.comm.all_reduce(sums, ReduceOp::kSum).wait();
  int64_t i = 0;
  for (auto& [name, count] : counts) count = sums[i++].item<double>();
  return counts;
}

void Trainer::tell_own_updates(double divisor, bool last, const Progress& at) {
  if (parts_.parameters.own_updates.empty()) return;
  const auto& common = parts_.optimizer.options();
  UpdateSettings settings;
  settings.lr = common.lr * parts_.schedule.factor(at);
  settings.weight_decay = common.weight_decay(at.step, at.steps_per_epoch);
  settings.momentum = parts_.optimizer.momentum();
  settings.loss_divisor = divisor;
  settings.loss_scale = state_->loss_scale;
  settings.clip = options_.trainer.clip;
  settings.last_micro_batch = last;
  for (const auto& [name, module] : parts_.parameters.own_updates) module->set_update(settings);
}

void Trainer::backward(std::vector<Batch>& batches, const Progress& at) {
  set_training_mode(parts_.recipe, options_.trainer.freeze);
  parts_.recipe.prepare(batches, at);
  parts_.reducer.zero();
  for (auto* owner : parts_.parameters.owners) owner->zero_grad_rows();
  const auto counts = global_counts(batches);
  metrics_.clear();
  loss_ = torch::zeros({}, torch::TensorOptions(torch::kDouble).device(parts_.device));
  for (size_t i = 0; i < batches.size(); ++i) {
    const bool last = i + 1 == batches.size();
    parts_.reducer.begin(last);
    tell_own_updates(static_cast<double>(options_.batch_size), last, at);
    torch::Tensor objective;
    {
      const auto timed = clock_.time("forward");
      const StepScope step({options_.seed, at.step, at.total, 0, batches[i].position});
      const AutocastScope autocast(precision_, parts_.device);
      StepOutput out = parts_.recipe.step(batches[i], at);
      for (const LossTerm& term : out.terms) {
        const auto counted = counts.find(term.name);
        const double count =
            counted == counts.end() ? static_cast<double>(options_.batch_size) : counted->second;
        if (count == 0) continue;  // nobody has a unit of this term
        const auto share = term.sum * (term.weight / count);
        loss_ += share.detach().to(torch::kDouble);
        objective = objective.defined() ? objective + share : share;
      }
      metrics_.merge(out.metrics);
    }
    FT_CHECK(objective.defined(), "recipe: a step gave no loss term with a unit in it");
    const auto timed = clock_.time("backward");
    (objective * (state_->loss_scale * parts_.comm.size())).backward();
  }
  const auto timed = clock_.time("reduce");
  parts_.reducer.finish();
}

Trainer::Verdict Trainer::judge() {
  const auto timed = clock_.time("verdict");
  const auto& trained = parts_.parameters.trained;
  std::vector<torch::Tensor> gradients;
  for (const auto& parameter : trained) gradients.push_back(gradient_of(parameter));
  std::vector<torch::Tensor> averaged;
  for (auto* deferred : deferred_) deferred->collect(averaged);
  torch::Tensor statistics;
  Work statistics_work;
  if (!averaged.empty() && parts_.comm.size() > 1) {
    std::vector<torch::Tensor> flat;
    for (const auto& tensor : averaged) flat.push_back(tensor.reshape(-1));
    statistics = torch::cat(flat);
    statistics_work = parts_.comm.all_reduce(statistics, ReduceOp::kSum);
  }

  // One pass over the gradients gives the norms and, by a NaN or infinity, the verdict.
  const auto squares = square_sums(gradients);
  double replicated_square = 0, sharded_square = 0;
  for (size_t i = 0; i < trained.size(); ++i)
    (trained[i].owner ? sharded_square : replicated_square) += squares.const_data_ptr<double>()[i];
  const double loss = loss_.item<double>();
  const bool finite =
      std::isfinite(replicated_square) && std::isfinite(sharded_square) && std::isfinite(loss);
  auto sums = at::tensor(
      {finite ? 0.0 : 1.0, finite ? sharded_square : 0.0, checkpoint_requested() ? 1.0 : 0.0,
       parts_.checkpointer.written(), parts_.checkpointer.failed(),
       // Of rank 0 alone: equal gradients may sum to other last bits on other CPUs, and the clip
       // factor must not.
       finite && parts_.comm.rank() == 0 ? replicated_square : 0.0},
      at::kDouble);
  const bool by_tensor = options_.trainer.clip > 0 && options_.trainer.clip_scope == "tensor";
  const int64_t fixed = sums.numel();
  if (by_tensor) {
    auto parts = finite ? squares : torch::zeros_like(squares);
    for (size_t i = 0; i < trained.size(); ++i)
      if (!trained[i].owner && parts_.comm.rank() != 0) parts[static_cast<int64_t>(i)] = 0;
    sums = torch::cat({sums, parts});
  }
  parts_.comm.all_reduce(sums, ReduceOp::kSum).wait();
  const double* value = sums.const_data_ptr<double>();

  if (statistics.defined()) {
    statistics_work.wait();
    statistics.div_(parts_.comm.size());
    int64_t offset = 0;
    for (auto& tensor : averaged) {
      tensor.copy_(statistics.narrow(0, offset, tensor.numel()).view_as(tensor));
      offset += tensor.numel();
    }
  }
  Verdict verdict;
  verdict.finite = value[0] == 0;
  const double square = value[5] + (options_.trainer.clip_scope == "replicated" ? 0 : value[1]);
  verdict.norm = std::sqrt(square) / state_->loss_scale;
  for (int64_t i = fixed; i < sums.numel(); ++i)
    verdict.tensor_norms.push_back(std::sqrt(value[i]) / state_->loss_scale);
  verdict.signal = value[2] > 0;
  verdict.parts_written = value[3];
  verdict.parts_failed = value[4];
  return verdict;
}

double Trainer::clip_factor(const Verdict& verdict, size_t parameter) const {
  const double clip = options_.trainer.clip;
  if (options_.trainer.clip_scope == "replicated" && parts_.parameters.trained[parameter].owner)
    return 1;
  const double norm = verdict.tensor_norms.empty() ? verdict.norm : verdict.tensor_norms[parameter];
  return clip > 0 && norm > clip ? clip / norm : 1;
}

void Trainer::update(const Verdict& verdict, const Progress& at) {
  const auto timed = clock_.time("update");
  for (size_t i = 0; i < parts_.parameters.trained.size(); ++i) {
    const torch::NoGradGuard no_grad;
    const double factor = clip_factor(verdict, i) / state_->loss_scale;
    auto gradient = gradient_of(parts_.parameters.trained[i]);
    if (gradient.defined() && factor != 1) gradient.mul_(factor);
  }
  ++state_->updates;
  state_->skipped_in_row = 0;
  adapt_loss_scale(precision_, true, *state_);
  parts_.optimizer.step(
      {parts_.optimizer.options().lr * parts_.schedule.factor(at), state_->updates,
       [this](const torch::Tensor& parameter) { return parts_.reducer.reached(parameter); }, at,
       &parts_.comm});
  for (auto* deferred : deferred_) deferred->commit();
  parts_.ema.update(state_->updates);
  parts_.recipe.after_update(at);
}

void Trainer::skip(const Progress& at) {
  for (auto* deferred : deferred_) deferred->discard();
  adapt_loss_scale(precision_, false, *state_);
  ++state_->skipped;
  ++state_->skipped_in_row;
  if (precision_ != Precision::kFp16)
    log_info("step {} skipped: a feature, the loss or a gradient is not finite", at.step + 1);
  FT_CHECK(state_->skipped_in_row < options_.trainer.max_skipped,
           "step {}: {} steps in a row had a loss or gradient that is not finite "
           "(trainer.max_skipped); lower optimizer.lr, set "
           "trainer.clip, or look at the data; checkpoints hold the last good weights",
           at.step + 1, state_->skipped_in_row);
}

void Trainer::log(const Verdict& verdict, const Progress& at) {
  metrics_.add("loss", loss_, 1.0 / parts_.comm.size());  // ranks' shares of one mean
  Reporter::Line line;
  line.means = metrics_.reduce(parts_.comm);
  const LoaderStatus status = parts_.feed.status();
  const auto skipped = at::tensor({static_cast<double>(status.skipped)}, at::kDouble);
  parts_.comm.all_reduce(skipped, ReduceOp::kSum).wait();
  line.step = state_->step;
  line.epoch = progress().epoch();
  line.lr = parts_.optimizer.options().lr * parts_.schedule.factor(at);
  line.gradient_norm = verdict.finite ? verdict.norm : NAN;
  line.loss_scale = state_->loss_scale;
  line.samples = state_->samples;
  line.skipped_steps = state_->skipped;
  line.skipped_samples = static_cast<int64_t>(skipped.item<double>());
  line.data_wait = status.wait_seconds;
  line.phases = clock_.take();
  parts_.reporter.log(line, options_.total_steps);
}

void Trainer::evaluate(bool& is_best) {
  if (parts_.evaluation_sets.empty()) return;
  const auto start = std::chrono::steady_clock::now();
  parts_.recipe.eval();
  parts_.ema.swap();
  std::map<std::string, double> figures;
  {
    const torch::NoGradGuard no_grad;
    const AutocastScope autocast(precision_, parts_.device);
    figures = parts_.recipe.evaluate(parts_.evaluation_sets);
  }
  parts_.ema.swap();
  parts_.reporter.evaluation(
      state_->step, figures,
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  if (!options_.keep_best.empty()) is_best = take_best(figures);
}

bool Trainer::take_best(const std::map<std::string, double>& figures) {
  const auto found = figures.find(options_.keep_best);
  if (found == figures.end()) {
    save(false);  // the steps until here are not lost
    parts_.checkpointer.finish();
    FT_FAIL(
        "checkpoint.keep_best: no figure is called '{}'; this run has {}; its steps are kept: "
        "resume it with another checkpoint.keep_best",
        options_.keep_best, fmt::join(std::views::keys(figures), ", "));
  }
  const double best = state_->has_best ? state_->best : NAN;
  if (!is_better(options_.keep_best, found->second, best)) return false;
  state_->best = found->second;
  state_->has_best = true;
  return true;
}

void Trainer::save(bool best) {
  const auto timed = clock_.time("checkpoint");
  CheckpointMeta meta;
  meta.state = *state_;
  meta.seed = options_.seed;
  meta.world_size = parts_.comm.size();
  meta.config = options_.config;
  parts_.checkpointer.save(
      meta, live_tensors(parts_.recipe, parts_.parameters, parts_.optimizer, parts_.ema), best);
}

}  // namespace facetrain
