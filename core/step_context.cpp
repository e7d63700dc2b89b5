#include "core/step_context.h"

#include <ATen/ATen.h>

#include <string>
#include <utility>

#include "core/check.h"
#include "core/random.h"

namespace facetrain {
namespace {

thread_local StepContext current;

constexpr uint64_t kCounterStride = 0x9e3779b97f4a7c15ULL;  // of Random::next()

// The top 24 bits: what a float in [0, 1) can hold without ever rounding up to 1.
float to_unit_float(uint64_t word) { return static_cast<float>(word >> 40) * 0x1.0p-24f; }

// `count` numbers from one key, as Random(key) would draw them.
void fill_uniform(uint64_t key, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i)
    out[i] = to_unit_float(mix_bits(key + kCounterStride * static_cast<uint64_t>(i)));
}

// random.h on int64 tensors, for devices that no plain loop reaches. Multiplication wraps; >> is
// arithmetic and masked.
at::Tensor shifted(const at::Tensor& x, int bits) {
  return at::__rshift__(x, bits).bitwise_and((int64_t{1} << (64 - bits)) - 1);
}
at::Scalar word(uint64_t value) { return static_cast<int64_t>(value); }
at::Tensor mix_bits(at::Tensor x) {
  x = x + word(0x9e3779b97f4a7c15ULL);
  x = x.bitwise_xor(shifted(x, 30)) * word(0xbf58476d1ce4e5b9ULL);
  x = x.bitwise_xor(shifted(x, 27)) * word(0x94d049bb133111ebULL);
  return x.bitwise_xor(shifted(x, 31));
}
at::Tensor mix_words(const at::Tensor& key, const at::Tensor& words) {
  return mix_bits(key.bitwise_xor(mix_bits(words + word(0x632be59bd9b4e019ULL))));
}
at::Tensor mix_word(const at::Tensor& key, uint64_t value) {
  return mix_words(key, at::full({1}, static_cast<int64_t>(value), key.options()));
}

}  // namespace

StepScope::StepScope(StepContext context) : previous_(std::exchange(current, std::move(context))) {}
StepScope::~StepScope() { current = std::move(previous_); }

const StepContext& step_context() { return current; }

at::Tensor sample_uniform_by_tensors(int64_t columns, std::string_view name) {
  const StepContext& context = current;
  auto key = at::full({1}, static_cast<int64_t>(facetrain::mix_bits(context.seed)),
                      context.positions.options());
  key = mix_words(key, context.positions);
  key = mix_word(key, static_cast<uint64_t>(context.view));
  key = mix_word(key, name_key(name));
  const auto counter = at::arange(columns, key.options()) * word(kCounterStride);
  return shifted(mix_bits(key.unsqueeze(1) + counter), 40).to(at::kFloat).mul_(0x1.0p-24);
}

at::Tensor sample_uniform(int64_t columns, std::string_view name) {
  const StepContext& context = current;
  FT_CHECK(context.positions.defined(),
           "'{}' draws random numbers per sample, but no step with sample positions is under way: "
           "open a StepScope around the forward, or switch the module to eval()",
           name);
  if (!context.positions.is_cpu()) return sample_uniform_by_tensors(columns, name);
  const auto positions = context.positions.contiguous();
  const auto out = at::empty({positions.size(0), columns}, at::kFloat);
  for (int64_t row = 0; row < positions.size(0); ++row) {
    const uint64_t key = random_key(context.seed, positions.const_data_ptr<int64_t>()[row],
                                    context.view, name_key(name));
    fill_uniform(key, columns, out.mutable_data_ptr<float>() + row * columns);
  }
  return out;
}

at::Tensor step_uniform(int64_t count, std::string_view name, const at::Device& device) {
  const auto out = at::empty({count}, at::kFloat);
  fill_uniform(random_key(current.seed, current.step, name_key(name)), count,
               out.mutable_data_ptr<float>());
  return out.to(device);
}

}  // namespace facetrain
