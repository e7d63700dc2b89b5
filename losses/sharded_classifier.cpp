#include "losses/sharded_classifier.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "losses/class_draws.h"
#include "losses/simplex.h"

namespace facetrain {
namespace {

// What of the options asks for what the margin does not have.
void check_options(const ClassifierOptions& options, const MarginRule& rule) {
  const std::pair<const char*, double> of_softmax[] = {{"label_smoothing", options.label_smoothing},
                                                       {"focal_gamma", options.focal_gamma},
                                                       {"unpg_whisker", options.unpg_whisker}};
  for (const auto& [name, value] : of_softmax)
    FT_CHECK(value == 0 || rule.reduction == RowReduction::kSoftmax,
             "classifier.{} = {} wants a loss that ends in a soft-max, but this loss.name adds up "
             "one term a class; set it to 0 or choose another loss",
             name, value);
  const std::pair<const char*, double> of_cosines[] = {{"filter_above", options.filter_above},
                                                       {"unpg_whisker", options.unpg_whisker}};
  for (const auto& [name, value] : of_cosines)
    FT_CHECK(value == 0 || rule.normalise,
             "classifier.{} = {} wants cosines, but this loss.name does not normalise; set it to 0 "
             "or choose another loss",
             name, value);
  FT_CHECK(options.filter_above == 0 || rule.negative == NegativeRule::kNone,
           "classifier.filter_above = {} wants a loss that leaves other classes' cosines as they "
           "are, but this loss.name changes them itself; set it to 0 or choose another loss",
           options.filter_above);
  FT_CHECK(options.fixed == "none" || rule.rows_per_class == 1,
           "classifier.fixed: {} has one row a class, but this loss.name has {} sub-centres; set "
           "fixed: none or choose another loss",
           options.fixed, rule.rows_per_class);
}

}  // namespace

// The node of the graph: embeddings and parameters in, losses out. The gradient of the sharded
// parameters is written by the pass itself; that of the embeddings and of the shared bias goes on
// through autograd. What may be undefined is an optional: a node cannot take an undefined tensor.
struct ClassifierFunction : torch::autograd::Function<ClassifierFunction> {
  static torch::Tensor forward(torch::autograd::AutogradContext* ctx,
                               const torch::Tensor& embeddings, const torch::Tensor& /*weight*/,
                               const std::optional<torch::Tensor>& /*bias*/,
                               const std::optional<torch::Tensor>& /*shared_bias*/,
                               const torch::Tensor& labels, const torch::Tensor& positions,
                               c10::intrusive_ptr<ClassifierPass> pass,
                               ShardedClassifier* classifier) {
    const torch::Tensor losses = pass->forward(embeddings, labels, positions);
    ctx->saved_data["pass"] = c10::IValue::make_capsule(pass);
    ctx->saved_data["classifier"] = reinterpret_cast<int64_t>(classifier);
    return losses;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list gradients) {
    auto pass =
        c10::static_intrusive_pointer_cast<ClassifierPass>(ctx->saved_data["pass"].toCapsule());
    auto* classifier = reinterpret_cast<ShardedClassifier*>(ctx->saved_data["classifier"].toInt());
    const torch::Tensor by_embeddings =
        pass->backward(gradients[0], classifier->gradient_storage());
    return {by_embeddings, {}, {}, pass->shared_bias_gradient(), {}, {}, {}, {}};
  }
};

ShardedClassifier::ShardedClassifier(const ClassifierOptions& options, int64_t dim,
                                     std::shared_ptr<Margin> margin, Communicator& comm,
                                     uint64_t seed)
    : options_(options), dim_(dim), margin_(std::move(margin)), comm_(comm), seed_(seed) {
  FT_CHECK(options_.classes >= 1 && dim >= 1,
           "the classifier wants at least one class and one dimension, found {} and {}; "
           "set classifier.classes",
           options_.classes, dim);
  margin_->set_problem(options_.classes, options_.sample_rate(0, 1));
  const MarginRule rule = margin_->rule();
  check_options(options_, rule);
  rows_per_class_ = rule.rows_per_class;
  step_classes_ = options_.classes;
  classes_here_ = slice_of(options_.classes, comm.rank(), comm.size());
  register_module("margin", margin_);
  const bool learned = options_.fixed == "none";
  weight = register_parameter(
      "weight",
      learned ? draw_class_rows(classes_here_, rows_per_class_, dim, options_.init_deviation, seed)
              : simplex_rows(classes_here_, options_.classes, dim),
      learned);
  if (rule.bias == Bias::kPerClass)
    bias = register_parameter("bias", torch::zeros({classes_here_.size()}));
  if (rule.bias == Bias::kShared)
    shared_bias =
        register_parameter("shared_bias", torch::full({1}, rule.shared_bias, torch::kFloat));
}

void ShardedClassifier::check_labels(const torch::Tensor& labels,
                                     const std::vector<int64_t>& counts) const {
  const int64_t* label = labels.data_ptr<int64_t>();
  int64_t i = 0;
  for (size_t rank = 0; rank < counts.size(); ++rank)
    for (int64_t position = 0; position < counts[rank]; ++position, ++i)
      FT_CHECK(label[i] >= 0 && label[i] < options_.classes,
               "wanted labels in 0 ... {} (classifier.classes = {}), found label {} at position {} "
               "of rank {}'s rows; check "
               "the data's identities or set classifier.classes",
               options_.classes - 1, options_.classes, label[i], position, rank);
}

void ShardedClassifier::begin_step(std::span<const torch::Tensor> labels, int64_t step,
                                   int64_t total_steps, double steps_per_epoch) {
  FT_CHECK(!labels.empty(), "begin_step wants the labels of at least one micro-batch");
  const torch::Tensor mine =
      torch::cat(std::vector<torch::Tensor>(labels.begin(), labels.end())).to(torch::kLong);
  const std::vector<int64_t> counts = gather_counts(mine.size(0), comm_);
  step_labels_ = gather_rows_detached(mine.contiguous(), counts, comm_).cpu().contiguous();
  check_labels(step_labels_, counts);
  step_ = step;
  total_steps_ = total_steps;
  steps_per_epoch_ = steps_per_epoch;
  const double rate = options_.sample_rate(step, steps_per_epoch);
  sampled_ =
      rate >= 1
          ? torch::Tensor()
          : draw_step_classes(classes_here_, step_labels_, rate, seed_, step).to(weight.device());
  step_classes_ = options_.classes;
  if (sampled_.defined() && options_.label_smoothing > 0) {
    const std::vector<int64_t> of_ranks = gather_counts(sampled_.size(0), comm_);
    step_classes_ = std::accumulate(of_ranks.begin(), of_ranks.end(), int64_t{0});
  }
  zero_grad_rows();
}

void ShardedClassifier::check_forward(const torch::Tensor& embeddings, const torch::Tensor& labels,
                                      const torch::Tensor& positions) const {
  FT_CHECK(embeddings.dim() == 2 && embeddings.size(1) == dim_,
           "the classifier wants embeddings [b, {}], found [{}]", dim_,
           fmt::join(embeddings.sizes(), ", "));
  for (const auto* ids : {&labels, &positions})
    FT_CHECK(
        ids->dim() == 1 && ids->size(0) == embeddings.size(0) && ids->scalar_type() == torch::kLong,
        "the classifier wants labels and positions [{}] int64, found [{}] {}", embeddings.size(0),
        fmt::join(ids->sizes(), ", "), toString(ids->scalar_type()));
}

void ShardedClassifier::check_gathered(const torch::Tensor& labels,
                                       const std::vector<int64_t>& counts) const {
  if (!labels.is_cpu()) return;  // looking at them would make the host wait for the device
  check_labels(labels, counts);
  FT_CHECK(!sampled_.defined() || torch::isin(labels, step_labels_).all().item<bool>(),
           "a forward has labels that begin_step was not told of; with classifier.sample_rate < 1 "
           "it must see all of the step's");
}

torch::Tensor ShardedClassifier::forward(const torch::Tensor& embeddings,
                                         const torch::Tensor& labels,
                                         const torch::Tensor& positions) {
  check_forward(embeddings, labels, positions);
  MarginInput input;
  input.classes = options_.classes;
  input.sample_rate = options_.sample_rate(step_, steps_per_epoch_);
  input.step = step_;
  input.total_steps = total_steps_;
  input.steps_per_epoch = steps_per_epoch_;
  const ClassShard shard{weight.detach(), bias.defined() ? bias.detach() : bias, sampled_,
                         classes_here_};
  auto pass = c10::make_intrusive<ClassifierPass>(shard, *margin_, comm_, input, shared_bias,
                                                  pass_settings());
  const auto optional = [](const torch::Tensor& t) { return std::optional<torch::Tensor>(t); };
  const torch::Tensor losses = ClassifierFunction::apply(
      embeddings, weight, optional(bias), optional(shared_bias), labels, positions, pass, this);
  check_gathered(pass->input().label, pass->counts());
  target_cosine_ = pass->input().target.mean();
  feature_norm_ = pass->input().norm.mean();
  return losses;
}

PassSettings ShardedClassifier::pass_settings() const {
  const double automatic = weight.is_cpu() ? 4 : 64;
  const double megabytes = options_.workspace_mb > 0 ? options_.workspace_mb : automatic;
  const bool reduced =
      options_.gemm == "auto" ? has_fast_bf16(weight.device()) : options_.gemm == "bf16";
  return {static_cast<int64_t>(megabytes * 1e6),
          reduced,
          {options_.label_smoothing, options_.focal_gamma, step_classes_},
          options_.filter_above,
          options_.unpg_whisker};
}

ShardGradient ShardedClassifier::gradient_storage() {
  ShardGradient to;
  const int64_t classes = sampled_classes(), rows = classes * rows_per_class_;
  torch::Tensor& own = sampled_.defined() ? row_gradient_ : weight.mutable_grad();
  torch::Tensor& own_bias = sampled_.defined() ? bias_gradient_
                            : bias.defined()   ? bias.mutable_grad()
                                               : bias_gradient_;
  to.accumulate = own.defined() || own_bias.defined();
  if (weight.requires_grad()) {
    if (!own.defined()) {
      const bool fits = gradient_space_.defined() && gradient_space_.size(0) >= rows &&
                        gradient_space_.options().type_equal(weight.options());
      if (!fits)
        gradient_space_ = torch::empty({rows, dim_}, weight.options().requires_grad(false));
      own = gradient_space_.narrow(0, 0, rows);
    }
    to.weight = own;
  }
  if (bias.defined() && bias.requires_grad()) {
    if (!own_bias.defined())
      own_bias = torch::empty({classes}, bias.options().requires_grad(false));
    to.bias = own_bias;
  }
  return to;
}

void ShardedClassifier::zero_grad_rows() {
  row_gradient_.reset();
  bias_gradient_.reset();
  weight.mutable_grad().reset();
  if (bias.defined()) bias.mutable_grad().reset();
}

std::vector<ShardedParameter> ShardedClassifier::sharded() const {
  const int64_t k = rows_per_class_;
  std::vector<ShardedParameter> all{
      {"weight", k * classes_here_.begin, k * classes_here_.end, k * options_.classes}};
  if (bias.defined())
    all.push_back({"bias", classes_here_.begin, classes_here_.end, options_.classes});
  return all;
}

torch::Tensor ShardedClassifier::touched_rows(const std::string& name) const {
  if (!sampled_.defined() || name != "weight" || rows_per_class_ == 1) return sampled_;
  return (sampled_.unsqueeze(1) * rows_per_class_ +
          torch::arange(rows_per_class_, sampled_.options()))
      .view({-1});
}

torch::Tensor ShardedClassifier::row_gradient(const std::string& name) const {
  return name == "bias" ? bias_gradient_ : row_gradient_;
}

bool ShardedClassifier::update_untouched_rows(const std::string&) const {
  return options_.rows == "dense";
}

std::vector<std::string> ShardedClassifier::frozen() const {
  if (options_.fixed == "none") return {};
  return {"weight"};
}

int64_t ShardedClassifier::sampled_classes() const {
  return sampled_.defined() ? sampled_.size(0) : classes_here_.size();
}

}  // namespace facetrain
