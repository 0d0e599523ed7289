#include "response_cache.h"

#include <algorithm>

#include "cached_outputs.h"

namespace starling {
namespace {

// Nodes of the table and the list, both copies of the key, and the control blocks of shared pointers.
constexpr std::uint64_t kBookkeepingBytes = 256;

}  // namespace

ResponseKey ResponseCache::key(std::uint64_t model, const std::vector<InputTensor>& inputs) const noexcept {
  ContentHasher hasher(keys_);
  std::uint64_t size = 0;
  // Everything that says where one value ends comes before the values: no two questions read the same.
  hasher.add(inputs.size());
  for (const auto& input : inputs) {
    hasher.add(static_cast<std::uint64_t>(input.data_type));
    hasher.add(input.shape.size());
    for (const auto dim : input.shape) hasher.add(static_cast<std::uint64_t>(dim));
    hasher.add(input.size_bytes);
    size += input.size_bytes;
  }
  for (const auto& input : inputs) {
    for (const auto piece : input.data) hasher.add(piece);
  }
  return {hasher.finish(), model, size};
}

std::optional<CachedResponse> ResponseCache::lookup(const ResponseKey& key, TimePoint now) {
  const auto answer = answers_.find(key, now);
  (answer != nullptr ? hits_ : misses_).fetch_add(1, std::memory_order_relaxed);
  if (answer == nullptr) return std::nullopt;
  const auto age = std::chrono::duration_cast<std::chrono::microseconds>(now - answer->as_of);
  return CachedResponse{answer->outputs, std::max(std::chrono::microseconds{}, age)};
}

bool ResponseCache::put(const ResponseKey& key, std::vector<OutputTensor> outputs, TimePoint as_of) {
  auto answer = std::make_shared<Answer>(Answer{detach(std::move(outputs)), as_of, 0});
  answer->size_bytes = sizeof(Answer) + kBookkeepingBytes + held_bytes(answer->outputs);
  return answers_.put(key, std::move(answer));
}

std::size_t ResponseCache::remove_model(std::uint64_t model) {
  return answers_.remove_if([model](const ResponseKey& key, const Answer&) { return key.model == model; });
}

CacheStats ResponseCache::stats() const {
  auto stats = answers_.stats();
  stats.hits = hits_.load(std::memory_order_relaxed);
  stats.misses = misses_.load(std::memory_order_relaxed);
  return stats;
}

}  // namespace starling
