// Images per second of the loader, against bare libjpeg-turbo on the same bytes in the same run.
//
//   bench_loader [images] [pairs]      medians of alternating pairs; target: ratio >= 0.90
//
// "cpu ratio" is the same in processor time, for machines on which other programs run.
#include <time.h>
#include <turbojpeg.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "core/check.h"
#include "data/loader.h"
#include "data/shard_reader.h"
#include "data/synthetic_set.h"

namespace facetrain {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr int64_t kBatch = 128;
constexpr int kSize = 112;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Of the whole process: what other programs on the machine take does not count.
double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Images per second of wall time and of processor time.
struct Rate {
  double wall, cpu;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

using Images = std::vector<std::vector<uint8_t>>;

Images read_images(const fs::path& folder) {
  Images images;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const auto& file : files) {
    const ShardReader shard(file, std::vector<std::string>{});
    for (int64_t i = 0; i < shard.size(); ++i) shard.read_image(i, images.emplace_back());
  }
  return images;
}

// The least that anybody can do: bytes in memory, one handle a thread, one buffer, no checks.
void decode_bare(const Images& images, size_t begin, size_t end) {
  const tjhandle turbo = tjInitDecompress();
  std::vector<uint8_t> pixels(kSize * kSize * 3);
  for (size_t i = begin; i < end; ++i) {
    FT_CHECK(tjDecompress2(turbo, images[i].data(), images[i].size(), pixels.data(), kSize, 0,
                           kSize, TJPF_RGB, TJFLAG_ACCURATEDCT) == 0,
             "libjpeg-turbo: {}", tjGetErrorStr2(turbo));
  }
  tjDestroy(turbo);
}

Rate bare_rate(const Images& images, size_t threads) {
  const auto start = Clock::now();
  const double cpu = cpu_seconds();
  std::vector<std::thread> pool;
  for (size_t t = 0; t < threads; ++t)
    pool.emplace_back([&, t] {
      decode_bare(images, images.size() * t / threads, images.size() * (t + 1) / threads);
    });
  for (auto& thread : pool) thread.join();
  const auto count = static_cast<double>(images.size());
  return {count / seconds_since(start), count / (cpu_seconds() - cpu)};
}

Rate loader_rate(const std::shared_ptr<const Source>& source, int64_t threads, bool flip) {
  LoaderOptions options;
  options.batch_size = kBatch;
  options.workers = threads;
  options.seed = 1;
  Config shuffle, mirror;
  shuffle.set_default_name("shuffle");
  mirror.set_default_name("flip");
  std::vector<std::pair<std::string, std::shared_ptr<const Transform>>> transforms;
  if (flip) transforms.emplace_back("flip", Transforms::get().create(mirror));
  Loader loader({source}, Samplers::get().create(shuffle, SamplerInput{{source}, {}, 1, kBatch}),
                transforms, options);
  loader.next();  // threads are up, the layout is known
  const int64_t steps = source->size() / kBatch;
  loader.seek(0);
  const auto start = Clock::now();
  const double cpu = cpu_seconds();
  for (int64_t step = 0; step < steps; ++step) loader.next();
  const auto count = static_cast<double>(steps * kBatch);
  return {count / seconds_since(start), count / (cpu_seconds() - cpu)};
}

void compare(const Images& images, const std::shared_ptr<const Source>& source, int64_t threads,
             bool flip, int64_t pairs) {
  std::vector<double> bare, loader, ratio, cpu_ratio;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    const Rate least = bare_rate(images, static_cast<size_t>(threads));
    const Rate ours = loader_rate(source, threads, flip);
    bare.push_back(least.wall);
    loader.push_back(ours.wall);
    ratio.push_back(ours.wall / least.wall);
    cpu_ratio.push_back(ours.cpu / least.cpu);
  }
  std::printf("%7lld  %-4s  %10.0f  %10.0f  %5.3f  %9.3f\n", static_cast<long long>(threads),
              flip ? "yes" : "no", median(bare), median(loader), median(ratio), median(cpu_ratio));
}

int bench(int64_t images, int64_t pairs) {
  std::string pattern = (fs::temp_directory_path() / "facetrain-bench-XXXXXX").string();
  FT_CHECK(mkdtemp(pattern.data()) != nullptr, "cannot make a folder in '{}'",
           fs::temp_directory_path().string());
  const fs::path folder = pattern;
  SyntheticSetOptions options;
  options.out = folder / "set";
  options.identities = images / 8;
  options.images = 8;
  options.test_identities = 0;
  options.jobs = std::max<int64_t>(1, std::thread::hardware_concurrency());
  write_synthetic_set(options);
  const Images encoded = read_images(options.out);
  ImageOptions columns;
  columns.columns = std::vector<std::string>{"identity"};
  const auto source = open_source(options.out.string(), columns);
  size_t bytes = 0;
  for (const auto& image : encoded) bytes += image.size();
  std::printf("%zu rendered JPEGs of %d x %d, %.1f KB each; median of %lld alternating pairs\n",
              encoded.size(), kSize, kSize,
              static_cast<double>(bytes) / 1e3 / static_cast<double>(encoded.size()),
              static_cast<long long>(pairs));
  std::printf("threads  flip  bare img/s  load img/s  ratio  cpu ratio\n");
  for (const int64_t threads : {1, 2})
    for (const bool flip : {false, true}) compare(encoded, source, threads, flip, pairs);
  fs::remove_all(folder);
  return 0;
}

}  // namespace
}  // namespace facetrain

int main(int argc, char** argv) {
  int64_t images = 4096, pairs = 5;
  CLI::App app("Images per second of the loader against bare libjpeg-turbo");
  app.add_option("images", images, "to render and read")->check(CLI::PositiveNumber);
  app.add_option("pairs", pairs, "of alternating runs; the median counts")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    return facetrain::bench(images, pairs);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
