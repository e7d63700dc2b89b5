// facetrain shards {pack, synth, info, verify}: makes and looks at data sets.
#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <thread>

#include "cli/commands.h"
#include "core/check.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "data/inspect.h"
#include "data/pack.h"
#include "data/synthetic_faces.h"
#include "data/synthetic_set.h"

namespace facetrain {
namespace {

int64_t default_jobs() {  // the processors that this process may use
  return std::max<int64_t>(1, std::thread::hardware_concurrency());
}

// A bar on a terminal, ten plain lines elsewhere.
std::function<void(int64_t, int64_t)> show_progress(const std::string& verb) {
  struct State {
    std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now(), shown{};
    int64_t tenth = 0, first = -1;
  };
  return [verb, state = std::make_shared<State>()](int64_t done, int64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (state->first < 0) state->first = done - 1;
    const double seconds = std::chrono::duration<double>(now - state->start).count();
    const double rate = static_cast<double>(done - state->first) / std::max(seconds, 1e-3);
    if (log_is_terminal()) {
      if (done < total && now - state->shown < std::chrono::milliseconds(100)) return;
      state->shown = now;
      constexpr int64_t kWidth = 30;
      const auto full = static_cast<size_t>(kWidth * done / total);
      log_progress(fmt::format("{} [{}{}] {} of {} images, {:.0f}/s", verb, std::string(full, '='),
                               std::string(kWidth - full, ' '), done, total, rate));
    } else if (const int64_t tenth = 10 * done / total; tenth > state->tenth) {
      state->tenth = tenth;
      log_info("{}: {} of {} images ({} %), {:.0f}/s", verb, done, total, 100 * done / total, rate);
    }
    if (done == total) *state = State{};  // ready for a second split
  };
}

std::string count(int64_t number, const char* thing) {
  return fmt::format("{} {}{}", number, thing, number == 1 ? "" : "s");
}

std::string mebibytes(int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

void report_set(const std::filesystem::path& out, const ShardSetResult& set) {
  log_info("{}: {} in {}, {}{}", out.string(), count(set.records, "image"),
           count(set.shards, "shard"), mebibytes(set.bytes),
           set.kept > 0 ? fmt::format(" ({} of them complete before)", set.kept) : "");
}

// ------------------------------------------------------------------------------------------ pack

// "10000" is images, "256MB", "64MiB", "1GB" bytes of image files.
void parse_shard_size(const std::string& text, PackOptions& options) {
  size_t end = 0;
  int64_t number = 0;
  try {
    number = std::stoll(text, &end);
  } catch (const std::exception&) {
    end = 0;
  }
  const std::string unit = text.substr(end);
  const std::map<std::string, int64_t> units = {{"KB", 1000},       {"MB", 1000000},
                                                {"GB", 1000000000}, {"KiB", 1 << 10},
                                                {"MiB", 1 << 20},   {"GiB", 1 << 30}};
  if (end == 0 || number < 1 || (!unit.empty() && !units.contains(unit))) {
    throw CLI::ValidationError(
        "--shard-size", "wanted images (10000) or bytes (128MiB, 1GB), found '" + text + "'");
  }
  options.shard_images = unit.empty() ? number : 0;
  options.shard_bytes = unit.empty() ? 0 : number * units.at(unit);
}

void pack(PackOptions options, const std::string& shard_size) {
  parse_shard_size(shard_size, options);
  options.progress = show_progress("packing");
  const PackResult result = pack_set(options);
  for (const std::string& warning : result.warnings) log_warn("{}", warning);
  report_set(options.out, result.set);
  if (result.identities > 0)
    log_info("identities: {}", result.identities);
  else
    log_info("no identities: the images lay in no sub-folders, their label is missing");
}

void add_pack(CLI::App& shards) {
  auto options = std::make_shared<PackOptions>();
  auto shard_size = std::make_shared<std::string>("128MiB");
  options->jobs = default_jobs();
  auto* command = shards.add_subcommand("pack", "make a set of shards from image files");
  command
      ->add_option("path", options->in,
                   "folder with one sub-folder an identity, or a list file (lines path<TAB>label)")
      ->required();
  command->add_option("--out", options->out, "folder for the shards")->required();
  command->add_option("--jobs", options->jobs, "threads; the shards are the same for any number")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option(
          "--shard-size", *shard_size,
          "images a shard (10000) or bytes of image files (128MiB); each job keeps a shard "
          "in memory")
      ->capture_default_str();
  command->add_flag("--allow-gaps", options->allow_gaps,
                    "accept labels between 0 and the largest that have no image");
  command
      ->add_option("--min-images", options->min_images,
                   "refuse identities with fewer images; those with a single one are a warning")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command->footer(
      "JPEG and PNG files are stored as they are, PGM and PPM as PNG. After an interruption run "
      "the\n"
      "same command again: finished shards are kept.\n\n"
      "Example:\n"
      "  facetrain shards pack --out sets/mine path/to/identity_folders\n"
      "  facetrain shards info sets/mine\n"
      "  facetrain train configs/recognition/iresnet18_synth.yaml run=runs/mine "
      "data.train=sets/mine "
      "data.size=112 data.fit=resize");
  command->callback([options, shard_size] { pack(*options, *shard_size); });
}

// ----------------------------------------------------------------------------------------- synth

void write_sheet(const std::filesystem::path& file, const SyntheticSetOptions& options) {
  const SyntheticOptions renderer{options.seed, static_cast<int>(options.size), true};
  const int rows = static_cast<int>(std::min<int64_t>(options.identities, 8));
  const auto bytes = encode_png(synthetic_contact_sheet(renderer, rows, 12));
  write_file_durably(file, std::string(bytes.begin(), bytes.end()));
  log_info("{}: contact sheet, a row an identity; its first two pictures are without nuisance",
           file.string());
}

void synth(SyntheticSetOptions options, const std::string& sheet) {
  if (!sheet.empty()) check_writable(sheet);
  options.progress = show_progress("rendering");
  const SyntheticSetResult result = write_synthetic_set(options);
  report_set(options.out, result.train);
  if (options.test_identities > 0) {
    report_set(result.test_folder, result.test);
    log_info("{}: {} pairs of {} other identities", (result.test_folder / "pairs.csv").string(),
             result.pairs, options.test_identities);
  }
  if (!sheet.empty()) write_sheet(sheet, options);
}

void add_synth(CLI::App& shards) {
  auto options = std::make_shared<SyntheticSetOptions>();
  auto sheet = std::make_shared<std::string>();
  options->jobs = default_jobs();
  auto* command =
      shards.add_subcommand("synth", "render faces with exact labels, a train and a test set");
  command
      ->add_option("--out", options->out, "folder for the shards; the test split goes to OUT-test")
      ->required();
  command->add_option("--identities", options->identities, "people to train on")
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  command->add_option("--images", options->images, "images of each")
      ->required()
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30));
  command->add_option("--seed", options->seed, "another number, other people")
      ->capture_default_str();
  command->add_option("--size", options->size, "pixels, square")
      ->check(CLI::Range(16, 2048))
      ->capture_default_str();
  command
      ->add_option("--test-identities", options->test_identities,
                   "people to test on; 0: no test set")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--test-images", options->test_images,
                      "images of each (default: as many as --images, at most 20)");
  command->add_option("--jobs", options->jobs, "threads; the shards are the same for any number")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--shard-size", options->shard_images, "images a shard")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--sheet", *sheet, "also write a contact sheet (PNG)")->type_name("FILE");
  command->footer(
      "Writes exactly identities * images JPEGs with labels 0 ... identities - 1 and columns for\n"
      "landmarks, pose, gaze, masks, attributes, expression, age and quality.\n\n"
      "Example:\n"
      "  facetrain shards synth --out sets/synth --identities 500 --images 20 --seed 1 --sheet "
      "faces.png\n"
      "  facetrain shards info sets/synth");
  command->callback([options, sheet] { synth(*options, *sheet); });
}

// --------------------------------------------------------------------------------- info, verify

void print_columns(const SetInfo& info) {
  log_info("columns:");
  for (size_t c = 0; c < info.columns.size(); ++c) {
    const Column& column = info.columns[c];
    const std::string shape =
        column.shape.empty() ? "" : fmt::format(" [{}]", fmt::join(column.shape, ", "));
    log_info("  {:<13} {:<16} {:<8} {}{}", column.name, to_string(column.type) + shape, column.unit,
             info.present[c] == info.images
                 ? "in every record"
                 : fmt::format("in {} of {} records", info.present[c], info.images),
             column.classes.empty() ? ""
                                    : fmt::format("; {} names: {}", column.classes.size(),
                                                  fmt::join(column.classes, ", ")));
  }
}

void print_sizes(const SetInfo& info) {
  std::vector<std::pair<int64_t, std::pair<int, int>>> sizes;
  for (const auto& [size, count] : info.sizes) sizes.push_back({count, size});
  std::stable_sort(sizes.begin(), sizes.end(),
                   [](const auto& a, const auto& b) { return a.first > b.first; });
  log_info("image sizes (width x height){}:",
           info.probed < info.images
               ? fmt::format(", of {} images spread over the set", info.probed)
               : "");
  constexpr size_t kShown = 12;
  for (size_t i = 0; i < std::min(kShown, sizes.size()); ++i) {
    const auto& [count, size] = sizes[i];
    log_info("  {:>4} x {:<4} {:>9} images {}", size.first, size.second, count,
             std::string(static_cast<size_t>((40 * count + info.probed - 1) / info.probed), '#'));
  }
  if (sizes.size() > kShown) log_info("  and {} other sizes", sizes.size() - kShown);
  for (const auto& [format, count] : info.formats)
    log_info("stored as {}: {} of {}", format, count, info.probed);
}

void print_identities(const SetInfo& info) {
  const IdentityCounts& counts = info.identities;
  if (counts.images.empty()) return log_info("identities: none");
  log_info("identities: {}; images of one: {} at least, {} in the middle, {} at most",
           counts.images.size() - counts.gaps.size(), counts.smallest, counts.median,
           counts.largest);
  if (counts.single > 0) log_info("identities with one image: {}", counts.single);
  if (counts.unlabelled > 0) log_info("images without identity: {}", counts.unlabelled);
  if (!counts.gaps.empty())
    log_warn("labels without an image: {}; a classifier over {} classes learns nothing for them",
             list_some(counts.gaps, std::ssize(counts.gaps)), counts.images.size());
}

void print_info(const std::string& path) {
  const SetInfo info = inspect_set(path);
  log_info("set {}: {} in {}, {} ({} of images)", info.name, count(info.images, "image"),
           count(info.shards, "shard"), mebibytes(info.file_bytes), mebibytes(info.image_bytes));
  print_identities(info);
  print_columns(info);
  print_sizes(info);
  log_info("example records:");
  for (const auto& row : info.examples) {
    log_info("  {}: {}", row[0], row[1]);
    for (size_t c = 0; c < info.columns.size(); ++c)
      log_info("    {:<13} {}", info.columns[c].name, row[c + 2]);
  }
}

void verify(const std::string& path, int64_t jobs) {
  const VerifyResult result = verify_set(path, jobs, show_progress("verifying"));
  for (const std::string& failure : result.failures) log_line("FAILED " + failure);
  FT_CHECK(result.failures.empty(), "'{}': {} in {}: copy or pack the named shards again", path,
           count(static_cast<int64_t>(result.failures.size()), "failure"),
           count(result.shards, "shard"));
  log_info("{}: {} in {}, every checksum is right and every image decodes", path,
           count(result.images, "image"), count(result.shards, "shard"));
}

void add_info(CLI::App& shards) {
  auto path = std::make_shared<std::string>();
  auto* command =
      shards.add_subcommand("info", "counts, columns, sizes, identities, example records");
  command->add_option("path", *path, "folder of shards, or one shard")->required();
  command->footer("Example:\n  facetrain shards info sets/mine");
  command->callback([path] { print_info(*path); });
}

void add_verify(CLI::App& shards) {
  auto path = std::make_shared<std::string>();
  auto jobs = std::make_shared<int64_t>(default_jobs());
  auto* command = shards.add_subcommand("verify", "check every checksum and decode every image");
  command->add_option("path", *path, "folder of shards, or one shard")->required();
  command->add_option("--jobs", *jobs, "threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->footer(
      "Names shard and sample of each failure and ends with exit code 1 when there is one.\n\n"
      "Example:\n  facetrain shards verify sets/mine");
  command->callback([path, jobs] { verify(*path, *jobs); });
}

}  // namespace

void add_shards_command(CLI::App& app) {
  auto* shards = app.add_subcommand("shards", "make, inspect and verify data sets");
  shards->require_subcommand(1);
  shards->footer(
      "Example:\n"
      "  facetrain shards pack --out sets/mine path/to/identity_folders\n"
      "  facetrain shards verify sets/mine");
  add_pack(*shards);
  add_synth(*shards);
  add_info(*shards);
  add_verify(*shards);
}

}  // namespace facetrain
