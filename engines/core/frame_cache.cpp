#include "frame_cache.h"

#include <algorithm>

#include "cached_outputs.h"
#include "ssim.h"

namespace starling {
namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;

// Nodes of the table and the list, and the control blocks of shared pointers.
constexpr std::uint64_t kBookkeepingBytes = 256;

}  // namespace

std::string_view name(FrameMatch match) noexcept {
  constexpr std::string_view kNames[kFrameMatchCount] = {"hit", "unknown_stream", "other_shape", "too_old",
                                                         "different"};
  return kNames[static_cast<std::size_t>(match)];
}

FrameLookup FrameCache::compare(const StreamKey& key, const Luma& luma, TimePoint now,
                                const FrameTolerance& tolerance) {
  const auto answer = answers_.find(key, now);  // from here on it is ours, whatever others do to the cache
  if (answer == nullptr) return {};
  // A frame that arrived after `now` was read on another thread is fresh, not from the future.
  const auto age = std::max(microseconds{}, duration_cast<microseconds>(now - answer->as_of));
  FrameLookup lookup{FrameMatch::kOtherShape, 0, age, {}};
  if (answer->luma.frame_height != luma.frame_height || answer->luma.frame_width != luma.frame_width) return lookup;
  if (lookup.staleness > tolerance.staleness_max) {
    lookup.match = FrameMatch::kTooOld;
    return lookup;
  }
  lookup.similarity = ssim(luma.view(), answer->luma.view());
  lookup.match = lookup.similarity >= tolerance.similarity_min ? FrameMatch::kHit : FrameMatch::kDifferent;
  if (lookup.hit()) lookup.outputs = answer->outputs;
  return lookup;
}

FrameLookup FrameCache::lookup(const StreamKey& key, const Luma& luma, TimePoint now, const FrameTolerance& tolerance) {
  auto result = compare(key, luma, now, tolerance);
  matches_[static_cast<std::size_t>(result.match)].fetch_add(1, std::memory_order_relaxed);
  return result;
}

bool FrameCache::put(const StreamKey& key, Luma luma, std::vector<OutputTensor> outputs, TimePoint as_of) {
  auto answer = std::make_shared<Answer>(Answer{std::move(luma), detach(std::move(outputs)), as_of, 0});
  answer->size_bytes = sizeof(Answer) + kBookkeepingBytes + key.stream_id.capacity() + answer->luma.pixels.capacity() +
                       held_bytes(answer->outputs);
  return answers_.put(key, std::move(answer));
}

std::size_t FrameCache::remove_model(std::uint64_t model) {
  return answers_.remove_if([model](const StreamKey& key, const Answer&) { return key.model == model; });
}

CacheStats FrameCache::stats() const {
  auto stats = answers_.stats();
  for (int m = 0; m < kFrameMatchCount; ++m) {
    const auto n = count(static_cast<FrameMatch>(m));
    (static_cast<FrameMatch>(m) == FrameMatch::kHit ? stats.hits : stats.misses) += n;
  }
  return stats;
}

}  // namespace starling
