// Answers by the content of the question, for inputs that come again byte for byte.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "content_hash.h"
#include "lru_cache.h"

namespace starling {

// A model and the fingerprint of all its inputs. Two different questions to it share one with probability below 2^-90
// while they stay under 16 MiB, see ContentHasher; their total size is compared as well.
struct ResponseKey {
  ContentHash inputs;
  std::uint64_t model = 0;
  std::uint64_t size_bytes = 0;

  bool operator==(const ResponseKey&) const = default;
};

struct ResponseKeyHash {
  std::size_t operator()(const ResponseKey& key) const noexcept { return key.inputs.first ^ key.inputs.second << 3; }
};

struct CachedResponse {
  std::vector<OutputTensor> outputs;  // signature order
  std::chrono::microseconds age{};
};

// Thread-safe. Time is an argument. For models whose answer depends on nothing but the inputs.
class ResponseCache {
 public:
  // `bounds.age_max` is the time to live; `seed` chooses the hash, draw it at random once per process.
  ResponseCache(const CacheBounds& bounds, std::uint64_t seed) : keys_(seed), answers_(bounds) {}

  // `model` is unique for every load and never reused. `inputs` in signature order, so their names do not count.
  // Borrows the inputs; O(bytes), about 10 GB/s.
  ResponseKey key(std::uint64_t model, const std::vector<InputTensor>& inputs) const noexcept;

  std::optional<CachedResponse> lookup(const ResponseKey& key, TimePoint now);

  // `as_of` is when the question arrived. False when it was not kept: it is too large, or a younger one is there.
  bool put(const ResponseKey& key, std::vector<OutputTensor> outputs, TimePoint as_of);

  // For a model that is unloaded; returns how many answers it had. O(entries).
  std::size_t remove_model(std::uint64_t model);

  // Drops answers older than age_max; put() does so, too, as it comes across them. O(entries).
  std::size_t purge(TimePoint now) { return answers_.purge(now); }

  CacheStats stats() const;

 private:
  struct Answer {
    std::vector<OutputTensor> outputs;
    TimePoint as_of;
    std::uint64_t size_bytes = 0;
  };

  ContentKeys keys_;
  LruCache<ResponseKey, Answer, ResponseKeyHash> answers_;
  std::atomic<std::uint64_t> hits_{0};
  std::atomic<std::uint64_t> misses_{0};
};

}  // namespace starling
