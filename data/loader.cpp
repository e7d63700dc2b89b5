#include "data/loader.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <thread>

#include "core/log.h"
#include "core/random.h"

namespace facetrain {
namespace {

using Clock = std::chrono::steady_clock;

// Where one field of the batch gets its rows from.
struct Field {
  std::vector<int64_t> shape;  // of one row
  at::ScalarType dtype = at::kByte;
  size_t bytes = 0;    // of one row
  at::Tensor missing;  // defined for a column: the row of a sample without it
  bool may_miss = false;
};
using Layout = std::map<std::string, Field>;

// A micro-batch of this rank: `rows` rows from position `first` on, the step's local rows from
// `start` on.
struct Part {
  int64_t first = 0, rows = 0, global_rows = 0, start = 0;
};

// One optimizer step on its way through the workers. All but the buffers is guarded by the loader's
// mutex.
struct Job {
  int64_t step = 0, rows = 0, next_row = 0, left = 0;
  std::vector<Part> parts;
  std::vector<Batch> batches;  // made by prepare(), before any row is loaded
  std::exception_ptr error;
  int64_t error_row = 0;
  std::vector<std::pair<int64_t, std::string>> skips;  // (row, message)
};

std::vector<Part> cut_step(const LoaderOptions& options, int64_t step) {
  const int64_t n = options.batch_size, k = options.accumulate;
  std::vector<Part> parts;
  int64_t start = 0;
  for (int64_t i = 0; i < k; ++i) {
    const int64_t begin = n * i / k, rows = n * (i + 1) / k - begin;
    const int64_t low = rows * options.rank / options.size;
    const int64_t high = rows * (options.rank + 1) / options.size;
    parts.push_back({step * n + begin + low, high - low, rows, start});
    start += high - low;
  }
  return parts;
}

void check_options(const LoaderOptions& options) {
  FT_CHECK(options.size >= 1 && options.rank >= 0 && options.rank < options.size,
           "loader: rank {} of {}", options.rank, options.size);
  FT_CHECK(options.workers >= 1 && options.prefetch >= 1 && options.accumulate >= 1,
           "wanted data.workers, data.prefetch and trainer.accumulate of at least 1, found {}, {}, "
           "{}",
           options.workers, options.prefetch, options.accumulate);
  FT_CHECK(options.corrupt == "error" || options.corrupt == "skip",
           "data.corrupt: wanted error or skip, found '{}'", options.corrupt);
  FT_CHECK(options.batch_size / options.accumulate >= options.size,
           "wanted at least one row a rank in each micro-batch, found {} rows in {} micro-batches "
           "for {} ranks: raise data.batch_size",
           options.batch_size, options.accumulate, options.size);
}

// The columns of all sets, complete only where each set has them for each sample.
std::vector<Column> join_columns(const std::vector<std::shared_ptr<const Source>>& sets) {
  std::vector<Column> joined;
  std::map<std::string, size_t> carriers;
  for (const auto& set : sets) {
    for (const Column& column : set->columns()) {
      const auto known = std::find_if(joined.begin(), joined.end(),
                                      [&](const Column& c) { return c.name == column.name; });
      ++carriers[column.name];
      if (known == joined.end()) {
        joined.push_back(column);
        continue;
      }
      FT_CHECK(
          known->type == column.type && known->shape == column.shape,
          "set '{}': column '{}' is {} [{}], in a set joined with it {} [{}]: pack them alike, "
          "or name the columns that the run uses",
          set->name(), column.name, to_string(column.type), fmt::join(column.shape, ", "),
          to_string(known->type), fmt::join(known->shape, ", "));
      known->complete = known->complete && column.complete;
    }
  }
  for (Column& column : joined)
    column.complete = column.complete && carriers[column.name] == sets.size();
  return joined;
}

// Large buffers of batches that nobody holds any more, used again: fresh memory costs a page fault
// every 4 KiB, some 5 % of decoding. Pinned memory is left to LibTorch's allocator, which knows of
// copies that are still under way.
class BufferPool {
 public:
  at::Tensor take(const std::vector<int64_t>& shape, const at::TensorOptions& options) {
    constexpr size_t kLarge = 64 << 10, kMost = 64;
    for (const at::Tensor& kept : kept_) {
      if (kept.storage().use_count() == 1 && kept.sizes() == at::IntArrayRef(shape) &&
          kept.scalar_type() == options.dtype())
        return kept.detach();
    }
    const at::Tensor fresh = at::empty(shape, options);
    if (options.pinned_memory() || fresh.nbytes() < kLarge || kept_.size() >= kMost) return fresh;
    kept_.push_back(fresh);
    return fresh.detach();
  }

 private:
  std::vector<at::Tensor> kept_;
};

uint8_t* row_of(const at::Tensor& field, int64_t row, size_t bytes) {
  return static_cast<uint8_t*>(field.mutable_data_ptr()) + static_cast<size_t>(row) * bytes;
}

}  // namespace

struct Loader::Parts {
  std::vector<std::shared_ptr<const Source>> sets;
  std::shared_ptr<const Sampler> sampler;
  TransformList transforms;
  LoaderOptions options;
  std::vector<int64_t> first_identity;  // of each set in the joined numbering
  std::vector<Column> columns;

  std::mutex preparing;  // guards the layout, the pool and the making of a step's buffers
  bool layout_made = false;
  Layout layout;
  BufferPool pool;

  std::mutex mutex;
  std::condition_variable work, done;
  std::deque<std::shared_ptr<Job>> jobs;  // the next steps, in order
  int64_t next_step = 0;                  // that no job was made for
  bool active = false, stop = false;
  LoaderStatus status;
  std::vector<std::thread> threads;

  std::shared_ptr<Job> make_job(int64_t step) const;
  std::shared_ptr<Job> find_work();
  void run();
  void load_rows(Job& job, int64_t begin, int64_t end);
  void load_row(Job& job, int64_t row, std::vector<std::string>& skipped);
  Sample read(int64_t position, const at::Tensor& room, std::vector<std::string>& skipped) const;
  Sample read_once(const Draw& draw, const at::Tensor& room) const;
  void prepare(Job& job);
  void make_layout(int64_t position);
  std::vector<Batch> allocate(const Job& job);
  void collate(const Sample& sample, Batch& batch, int64_t row) const;
};

std::shared_ptr<Job> Loader::Parts::make_job(int64_t step) const {
  auto job = std::make_shared<Job>();
  job->step = step;
  job->parts = cut_step(options, step);
  for (const Part& part : job->parts) job->rows += part.rows;
  job->left = job->rows;
  return job;
}

Sample Loader::Parts::read_once(const Draw& draw, const at::Tensor& room) const {
  Sample sample = sets[static_cast<size_t>(draw.set)]->read_into(draw.index, room);
  if (const auto found = sample.fields.find("identity"); found != sample.fields.end()) {
    auto* identity = found->second.mutable_data_ptr<int64_t>();
    if (*identity >= 0) *identity += first_identity[static_cast<size_t>(draw.set)];
  }
  return sample;
}

// The sample at a position after its transforms, or what replaces it.
Sample Loader::Parts::read(int64_t position, const at::Tensor& room,
                           std::vector<std::string>& skipped) const {
  const int64_t attempts = std::min<int64_t>(sampler->epoch_size(), 1000);
  Sample sample;
  for (int64_t attempt = 0;; ++attempt) {
    try {
      sample = read_once(
          attempt == 0 ? sampler->at(position) : sampler->replacement(position, attempt), room);
      break;
    } catch (const Error& error) {
      if (options.corrupt != "skip") FT_FAIL("{}", training_error(error));
      skipped.emplace_back(error.what());
      FT_CHECK(attempt + 1 < attempts,
               "{} samples in a row cannot be read, the last one: {}; check the data with "
               "`facetrain shards verify`",
               attempts, error.what());
    }
  }
  sample.position = position;
  for (const auto& [name, transform] : transforms)
    transform->apply(sample, random_key(options.seed, position, name_key(name)));
  return sample;
}

// Names, shapes and types of the batch's fields, learned from the first sample that is read.
void Loader::Parts::make_layout(int64_t position) {
  std::vector<std::string> skipped;
  const Sample sample = read(position, {}, skipped);
  Layout made;
  for (const auto& [name, tensor] : sample.fields)
    made[name] = {tensor.sizes().vec(), tensor.scalar_type(), tensor.nbytes(), {}, false};
  std::vector<int64_t> mask_shape;
  if (const auto image = made.find("image"); image != made.end())
    mask_shape = {image->second.shape[0], image->second.shape[1]};
  for (const Column& column : columns) {
    const at::Tensor missing = missing_value(column, mask_shape);
    Field& field = made[column.name];
    if (!sample.fields.contains(column.name))
      field = {missing.sizes().vec(), missing.scalar_type(), missing.nbytes(), {}, false};
    field.missing = missing;
    field.may_miss = !column.complete;
  }
  layout = std::move(made);
}

void Loader::Parts::prepare(Job& job) {
  const std::lock_guard lock(preparing);
  if (!layout_made) make_layout(job.parts.front().first);
  layout_made = true;
  if (job.batches.empty()) job.batches = allocate(job);
}

std::vector<Batch> Loader::Parts::allocate(const Job& job) {
  const bool pinned = options.device.is_cuda();
  const auto buffer = [&](int64_t rows, std::vector<int64_t> shape, at::ScalarType dtype) {
    shape.insert(shape.begin(), rows);
    return pool.take(shape, at::TensorOptions(dtype).pinned_memory(pinned));
  };
  std::vector<Batch> batches;
  for (const Part& part : job.parts) {
    Batch batch;
    batch.rows = part.rows;
    batch.global_rows = part.global_rows;
    batch.position = buffer(part.rows, {}, at::kLong);
    for (const auto& [name, field] : layout) {
      batch.fields[name] = buffer(part.rows, field.shape, field.dtype);
      if (field.may_miss) batch.fields[name + "_present"] = buffer(part.rows, {}, at::kByte);
    }
    batches.push_back(std::move(batch));
  }
  return batches;
}

void Loader::Parts::collate(const Sample& sample, Batch& batch, int64_t row) const {
  const auto place = [&] {
    const Draw draw = sampler->at(sample.position);
    return fmt::format("position {} ({})", sample.position,
                       sets[static_cast<size_t>(draw.set)]->describe(draw.index));
  };
  for (const auto& [name, tensor] : sample.fields)
    FT_CHECK(layout.contains(name), "{}: it has a field '{}' that other samples lack", place(),
             name);
  for (const auto& [name, field] : layout) {
    const auto found = sample.fields.find(name);
    const bool present = found != sample.fields.end();
    FT_CHECK(present || field.missing.defined(), "{}: it lacks the field '{}' of other samples",
             place(), name);
    if (field.may_miss) *row_of(batch.fields.at(name + "_present"), row, 1) = present;
    const at::Tensor value = (present ? found->second : field.missing).contiguous();
    FT_CHECK(value.sizes() == at::IntArrayRef(field.shape) && value.scalar_type() == field.dtype,
             "{}: its field '{}' is {} [{}], in other samples {} [{}]: {}", place(), name,
             c10::toString(value.scalar_type()), fmt::join(value.sizes().vec(), ", "),
             c10::toString(field.dtype), fmt::join(field.shape, ", "),
             name == "image" || name == "mask"
                 ? "images of one batch must have one size, set data.size and data.fit"
                 : "they cannot lie in one batch");
    uint8_t* target = row_of(batch.fields.at(name), row, field.bytes);
    if (value.const_data_ptr() != target) std::memcpy(target, value.const_data_ptr(), field.bytes);
  }
}

void Loader::Parts::load_row(Job& job, int64_t row, std::vector<std::string>& skipped) {
  const auto after = std::upper_bound(job.parts.begin(), job.parts.end(), row,
                                      [](int64_t r, const Part& part) { return r < part.start; });
  const auto index = static_cast<size_t>(after - job.parts.begin()) - 1;
  const Part& part = job.parts[index];
  Batch& batch = job.batches[index];
  const int64_t local = row - part.start, position = part.first + local;
  at::Tensor room;
  if (const auto field = layout.find("image"); field != layout.end())
    room = at::from_blob(row_of(batch.fields.at("image"), local, field->second.bytes),
                         field->second.shape, at::kByte);
  collate(read(position, room, skipped), batch, local);
  batch.position.mutable_data_ptr<int64_t>()[local] = position;
}

// Loads rows [begin, end); the error of the lowest row is the step's, whatever thread was first.
void Loader::Parts::load_rows(Job& job, int64_t begin, int64_t end) {
  std::vector<std::pair<int64_t, std::string>> skips;
  std::exception_ptr error;
  int64_t row = begin;
  try {
    prepare(job);
    for (; row < end; ++row) {
      std::vector<std::string> skipped;
      load_row(job, row, skipped);
      for (auto& message : skipped) skips.emplace_back(row, std::move(message));
    }
  } catch (...) {
    error = std::current_exception();
  }
  const std::lock_guard lock(mutex);
  std::move(skips.begin(), skips.end(), std::back_inserter(job.skips));
  if (error && (!job.error || row < job.error_row)) {
    job.error = error;
    job.error_row = row;
  }
  job.left -= end - begin;
  if (job.left == 0) done.notify_all();
}

// The first step with rows that nobody took; makes the next step while fewer than `prefetch` are
// under way.
std::shared_ptr<Job> Loader::Parts::find_work() {
  if (!active) return nullptr;
  for (const auto& job : jobs)
    if (job->next_row < job->rows) return job;
  if (static_cast<int64_t>(jobs.size()) >= options.prefetch) return nullptr;
  jobs.push_back(make_job(next_step++));
  return jobs.back();
}

void Loader::Parts::run() {
  std::unique_lock lock(mutex);
  while (true) {
    std::shared_ptr<Job> job;
    work.wait(lock, [&] { return stop || (job = find_work()); });
    if (stop) return;
    // Few enough rows at a time that the workers finish a step together.
    const int64_t chunk = std::clamp<int64_t>(job->rows / (4 * options.workers), 1, 16);
    const int64_t begin = job->next_row, end = std::min(begin + chunk, job->rows);
    job->next_row = end;
    lock.unlock();
    load_rows(*job, begin, end);
    lock.lock();
  }
}

Loader::Loader(std::vector<std::shared_ptr<const Source>> sets,
               std::shared_ptr<const Sampler> sampler, TransformList transforms,
               const LoaderOptions& options)
    : parts_(std::make_unique<Parts>()) {
  check_options(options);
  FT_CHECK(!sets.empty() && sampler, "the loader wants at least one data set and a sampler");
  parts_->columns = join_columns(sets);
  int64_t identities = 0;
  for (const auto& set : sets) {
    parts_->first_identity.push_back(identities);
    identities += set->identities();
  }
  parts_->sets = std::move(sets);
  parts_->sampler = std::move(sampler);
  parts_->transforms = std::move(transforms);
  parts_->options = options;
  for (int64_t i = 0; i < options.workers; ++i)
    parts_->threads.emplace_back([parts = parts_.get()] { parts->run(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(parts_->mutex);
    parts_->stop = true;
  }
  parts_->work.notify_all();
  for (auto& thread : parts_->threads) thread.join();
}

std::vector<Batch> Loader::next() {
  Parts& parts = *parts_;
  std::shared_ptr<Job> job;
  {
    std::unique_lock lock(parts.mutex);
    const auto start = Clock::now();
    parts.active = true;
    if (parts.jobs.empty()) parts.jobs.push_back(parts.make_job(parts.next_step++));
    parts.work.notify_all();
    job = parts.jobs.front();
    parts.done.wait(lock, [&] { return job->left == 0; });
    parts.jobs.pop_front();
    parts.work.notify_all();
    parts.status.wait_seconds += std::chrono::duration<double>(Clock::now() - start).count();
    if (!job->error) parts.status.skipped += static_cast<int64_t>(job->skips.size());
  }
  if (job->error) std::rethrow_exception(job->error);
  std::sort(job->skips.begin(), job->skips.end());
  for (const auto& [row, message] : job->skips) log_warn("skipped a sample: {}", message);
  if (parts.options.device.is_cpu()) return std::move(job->batches);
  for (Batch& batch : job->batches) {
    const auto move = [&](at::Tensor& tensor) {
      tensor = tensor.to(parts.options.device, /*non_blocking=*/true);
    };
    move(batch.position);
    for (auto& [name, tensor] : batch.fields) move(tensor);
  }
  return std::move(job->batches);
}

void Loader::seek(int64_t step) {
  FT_CHECK(step >= 0, "loader: wanted a step >= 0, found {}", step);
  const std::lock_guard lock(parts_->mutex);
  parts_->jobs.clear();  // what a worker still has of them, it finishes for nobody
  parts_->next_step = step;
  parts_->work.notify_all();
}

LoaderStatus Loader::status() {
  const std::lock_guard lock(parts_->mutex);
  const LoaderStatus now = parts_->status;
  parts_->status.wait_seconds = 0;
  return now;
}

}  // namespace facetrain
