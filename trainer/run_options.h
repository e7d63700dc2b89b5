// The root of the configuration: every key that all recipes share. The sections of type Config are
// parsed by what they name.
#pragma once

#include <string>
#include <vector>

#include "core/config.h"
#include "trainer/checkpointer.h"

namespace facetrain {

struct DataOptions {
  Config train;  // a path, or a list of {path: .., weight: ..}
  int64_t batch_size = 128;
  int64_t size = 0;
  std::string fit = "error";
  int64_t workers = 1;
  int64_t prefetch = 2;
  bool flip = true;
  Config sampler, transforms, normalize, streams;
  std::string corrupt = "error";
  void fields(auto& f) {
    f("train", train,
      "shard folder, shard, folder:PATH, list:FILE, images:PATH, or a list of {path: .., "
      "weight: ..}");
    f("batch_size", batch_size, range(1, 1e7),
      "rows of one optimizer step over all ranks and micro-batches; every batch is full: it runs "
      "on into the next epoch, nothing is dropped or padded");
    f("size", size, range(0, 4096), "pixels of the square network input; 0: the network's own");
    f("fit", fit, one_of("error", "resize", "crop"), "what to do with images of another size");
    f("workers", workers, range(1, 256), "decoding threads a rank");
    f("prefetch", prefetch, range(1, 64), "steps decoded ahead");
    f("flip", flip, "mirror half of the images");
    f("sampler", sampler, "order of the samples: {name: shuffle | sequential | balanced, ...}");
    f("transforms", transforms,
      "further transforms, applied in this order: a list of {name: .., ...}");
    f("normalize", normalize,
      "face = (x - 127.5) / 127.5 | imagenet | {mean: [r, g, b], deviation: [r, g, b]} in 0 ... "
      "255 units");
    f("corrupt", corrupt, one_of("error", "skip"),
      "an unreadable sample ends the run, or is replaced, counted and reported");
    f("streams", streams,
      "further named streams for recipes that take them: {NAME: {train: .., batch_size: .., ...}}");
  }
};

struct TrainerOptions {
  int64_t steps = -1;
  double epochs = 20;
  std::string precision = "fp32";
  int64_t accumulate = 1;
  double clip = 0;
  std::string clip_scope = "all";
  double ema = 0;
  int64_t max_skipped = 10;
  bool deterministic = false;
  bool overlap = true;
  double bucket_mb = 16;
  int64_t threads = 0;
  std::vector<std::string> freeze;
  void fields(auto& f) {
    f("steps", steps, at_least(-1),
      "optimizer steps of the run; beats epochs; -1: as many as epochs says");
    f("epochs", epochs, at_least(0), "passes over the training set");
    f("precision", precision, one_of("fp32", "bf16", "fp16", "fp64"),
      "fp16 only on CUDA, fp64 only on the CPU");
    f("accumulate", accumulate, range(1, 65536),
      "micro-batches that data.batch_size is cut into, to save memory; changes no result but "
      "through statistics of a micro-batch (batch norm, some margins)");
    f("clip", clip, at_least(0), "largest 2-norm of the gradient; 0: off");
    f("clip_scope", clip_scope, one_of("all", "replicated", "tensor"),
      "the norm of all parameters, of all but the sharded ones (arcface_torch), or of each tensor "
      "by itself, a sharded one over all ranks (DINO)");
    f("ema", ema, range(0, 0.999999), "decay of the averaged weights; 0: off");
    f("max_skipped", max_skipped, range(1, 1e9), "non-finite steps in a row that end the run");
    f("deterministic", deterministic, "refuse operations whose bits differ from run to run");
    f("overlap", overlap, "reduce gradients while backward runs; false gives the same bits");
    f("bucket_mb", bucket_mb, range(0.001, 1024), "size of a gradient bucket");
    f("threads", threads, range(0, 1024),
      "compute threads a rank; 0: cores of the affinity mask / ranks on the host");
    f("freeze", freeze, "parameters that stay as they are: globs on names ('backbone.layer1.*')");
  }
};

struct EvalOptions {
  Duration every{1, true};
  Config sets;
  void fields(auto& f) {
    f("every", every, at_least(0),
      "steps or 'N epochs' between evaluations, and one after the last step; 0: none");
    f("sets", sets,
      "list of {name: .., protocol: pairs, path: shards or images, pairs: pairs.csv or pairs.txt, "
      "flip: true}; other protocols and their options: `facetrain list protocols`");
  }
};

struct LogOptions {
  int64_t every = 10;
  bool tensorboard = true;
  void fields(auto& f) {
    f("every", every, at_least(0), "steps between lines of metrics.jsonl and of the log; 0: off");
    f("tensorboard", tensorboard, "also write TensorBoard event files into the run folder");
  }
};

struct RunOptions {
  std::string run;
  uint64_t seed = 1;
  std::string device = "cpu";
  DataOptions data;
  Config model, recipe, loss, classifier, optimizer, schedule;
  TrainerOptions trainer;
  CheckpointOptions checkpoint;
  EvalOptions eval;
  LogOptions log;
  void fields(auto& f) {
    f("run", run, "run folder: configuration, metrics, checkpoints");
    f("seed", seed, "of initialisation, data order, augmentation, dropout, class sampling");
    f("device", device, "cpu | cuda | cuda:N");
    f("data", data, "training data");
    f("model", model, "network: {name: .., ...}");
    f("recipe", recipe, "task: {name: recognition, ...}");
    f("loss", loss, "margin or pair loss of the recipe: {name: arcface, ...}");
    f("classifier", classifier, "class-sharded softmax");
    f("optimizer", optimizer, "{name: sgd, lr: .., ...}");
    f("schedule", schedule, "learning rate: {name: poly, warmup: .., ...}");
    f("trainer", trainer, "the loop");
    f("checkpoint", checkpoint, "saving");
    f("eval", eval, "evaluation during training");
    f("log", log, "progress");
  }
};

}  // namespace facetrain
