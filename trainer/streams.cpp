#include "trainer/streams.h"

#include "comm/world.h"
#include "core/random.h"
#include "trainer/run_options.h"

namespace facetrain {
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

// `section`: data.train.
std::vector<std::shared_ptr<const Source>> open_sets(const Config& section,
                                                     const ImageOptions& images) {
  std::vector<std::shared_ptr<const Source>> sets;
  for (const auto& set : parse_sets(section)) {
    try {
      sets.push_back(open_source(set.path, images));
    } catch (const Error& error) {
      FT_FAIL("{}: {}", section.place(), error.what());
    }
  }
  return sets;
}

// The first image of each set: damage, and a size that the network does not take, are found before
// the run folder is made.
at::Tensor first_image(const Source& set) {
  try {
    return set.read(0).fields.at("image");
  } catch (const Error& error) {
    FT_FAIL("{}", training_error(error));
  }
}

}  // namespace

void resolve_training_sets(const Config& section) {
  for (const auto& item : section.node().list)
    if (item->kind != ConfigNode::Kind::kScalar) Config(item).as<SetOptions>();
}

void resolve_evaluation_sets(const Config& section) {
  const auto kind = section.node().kind;
  FT_CHECK(kind == ConfigNode::Kind::kList || kind == ConfigNode::Kind::kNull,
           "{}: wanted a list: [{{path: .., pairs: ..}}]", section.place());
  for (const auto& item : section.node().list) resolve_evaluation_set(Config(item));
}

int64_t count_identities(const std::vector<std::shared_ptr<const Source>>& sets) {
  int64_t identities = 0;
  for (const auto& set : sets) identities += set->identities();
  return identities;
}

namespace {

// A line a set: other files under the same path on another host must not train along.
std::string fingerprint(const std::vector<std::shared_ptr<const Source>>& sets, bool decodable) {
  std::string lines;
  for (const auto& set : sets) {
    uint64_t labels = 0, pixels = 0;
    for (int64_t i = 0; i < set->size(); ++i) labels = random_key(labels, set->identity(i));
    if (decodable && set->size() > 0) {
      const at::Tensor image = first_image(*set).contiguous();
      for (int64_t i = 0; i < image.numel(); ++i)
        pixels = random_key(pixels, image.const_data_ptr<uint8_t>()[i]);
    }
    lines += fmt::format("{} images of {} identities, labels {:x}, first image {:x}\n", set->size(),
                         set->identities(), labels, pixels);
  }
  return lines;
}

}  // namespace

int64_t count_identities(const Config& data, Communicator& comm) {
  const auto options = data.as<DataOptions>();
  const auto sets =
      open_sets(data.section("train"), ImageOptions{0, options.fit, std::vector<std::string>{}});
  check_same_on_all_ranks(comm, "the training data", fingerprint(sets, options.corrupt == "error"));
  return count_identities(sets);
}

Stream open_stream(const Config& section, const ImageOptions& images, uint64_t seed,
                   int64_t accumulate, Communicator& comm, const c10::Device& device) {
  const auto data = section.as<DataOptions>();
  Stream stream;
  SamplerInput input;
  const auto sets = parse_sets(section.section("train"));
  stream.sets = open_sets(section.section("train"), images);
  if (data.corrupt == "error")
    for (const auto& set : stream.sets) first_image(*set);
  for (const auto& set : sets)
    if (set.weight > 0) input.weights.push_back(set.weight);
  input.sets = stream.sets;
  input.seed = seed;
  input.batch_size = data.batch_size;
  stream.sampler = Samplers::get().create(section.section("sampler"), input);
  const int64_t micro = data.batch_size / accumulate;
  FT_CHECK(micro >= comm.size(),
           "data.batch_size {} in {} micro-batches gives {} rows for {} ranks; every rank needs "
           "one: raise data.batch_size or lower "
           "trainer.accumulate",
           data.batch_size, accumulate, micro, comm.size());
  TransformList transforms;
  if (data.flip) {
    Config flip;
    flip.set_default_name("flip");
    transforms.emplace_back("flip", Transforms::get().create(flip));
  }
  for (auto& item : make_transforms(section.section("transforms")))
    transforms.push_back(std::move(item));
  LoaderOptions loader;
  loader.batch_size = data.batch_size;
  loader.accumulate = accumulate;
  loader.workers = data.workers;
  loader.prefetch = data.prefetch;
  loader.corrupt = data.corrupt;
  loader.seed = seed;
  loader.rank = comm.rank();
  loader.size = comm.size();
  loader.device = device;
  stream.loader = std::make_unique<Loader>(stream.sets, stream.sampler, transforms, loader);
  return stream;
}

std::vector<EvaluationSet> open_evaluation_sets(const Config& section, const ImageOptions& images) {
  std::vector<EvaluationSet> sets;
  for (const auto& item : section.node().list) {
    const std::string place = Config(item).place();
    try {
      sets.push_back(open_evaluation_set(Config(item), images));
    } catch (const Error& error) {
      FT_FAIL("{}: {}", place, error.what());
    }
    const std::string& name = sets.back().name;
    FT_CHECK(
        std::count_if(sets.begin(), sets.end(), [&](const auto& s) { return s.name == name; }) == 1,
        "{}: a second evaluation set of the name '{}'; give it another `name`", place, name);
  }
  return sets;
}

}  // namespace facetrain
