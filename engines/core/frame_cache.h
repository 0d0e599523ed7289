// The last answered frame of every stream, for frames that look like it.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "lru_cache.h"
#include "luma.h"

namespace starling {

// One camera as one loaded model sees it.
struct StreamKey {
  std::uint64_t model = 0;  // unique for every load and never reused, so that no answer outlives its model version
  std::string stream_id;

  bool operator==(const StreamKey&) const = default;
};

struct StreamKeyHash {
  std::size_t operator()(const StreamKey& key) const noexcept {
    return std::hash<std::string>{}(key.stream_id) ^ (key.model * 0x9E3779B97F4A7C15);
  }
};

enum class FrameMatch : std::uint8_t {
  kHit = 0,
  kUnknownStream,  // nothing answered yet, or it was forgotten
  kOtherShape,     // the frame has another size than the answered one
  kTooOld,         // the answer is older than the request allows; similarity is not computed
  kDifferent,      // similarity is below the threshold
};

inline constexpr int kFrameMatchCount = 5;

// Label in metrics and logs, such as "different".
std::string_view name(FrameMatch match) noexcept;

struct FrameLookup {
  FrameMatch match = FrameMatch::kUnknownStream;
  double similarity = 0;                  // set for kHit and kDifferent
  std::chrono::microseconds staleness{};  // age of the answer; set for all but kUnknownStream
  std::vector<OutputTensor> outputs;      // signature order; empty unless kHit

  bool hit() const noexcept { return match == FrameMatch::kHit; }
};

// What a request is willing to take instead of an answer to its own frame.
struct FrameTolerance {
  double similarity_min = 0.95;
  std::chrono::microseconds staleness_max{};
};

// Thread-safe; no lock is held while frames are compared. Time is an argument.
//
// A frame is always compared with the one the model answered, never with one that was answered from here, and a hit
// does not make the answer younger: error cannot creep in over many small changes, and it ends after staleness_max.
class FrameCache {
 public:
  explicit FrameCache(const CacheBounds& bounds = {}) : answers_(bounds) {}

  FrameLookup lookup(const StreamKey& key, const Luma& luma, TimePoint now, const FrameTolerance& tolerance);

  // Remembers the model's own answer to a frame. `as_of` is when that frame arrived: an answer is as old as what it
  // saw, not as its computation. False when it was not kept: the stream has a younger answer, or it is too large.
  bool put(const StreamKey& key, Luma luma, std::vector<OutputTensor> outputs, TimePoint as_of);

  // For a camera that left; true when there was an answer.
  bool remove_stream(const StreamKey& key) { return answers_.remove(key); }

  // For a model that is unloaded; returns how many streams it had. O(entries).
  std::size_t remove_model(std::uint64_t model);

  // Drops answers older than age_max; put() does so, too, as it comes across them. O(entries).
  std::size_t purge(TimePoint now) { return answers_.purge(now); }

  CacheStats stats() const;

  // Lookups that ended so.
  std::uint64_t count(FrameMatch match) const noexcept {
    return matches_[static_cast<std::size_t>(match)].load(std::memory_order_relaxed);
  }

 private:
  struct Answer {
    Luma luma;
    std::vector<OutputTensor> outputs;
    TimePoint as_of;
    std::uint64_t size_bytes = 0;
  };

  FrameLookup compare(const StreamKey& key, const Luma& luma, TimePoint now, const FrameTolerance& tolerance);

  LruCache<StreamKey, Answer, StreamKeyHash> answers_;
  std::array<std::atomic<std::uint64_t>, kFrameMatchCount> matches_{};
};

}  // namespace starling
