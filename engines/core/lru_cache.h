// A bounded map that forgets what was not used for longest. Time is an argument.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "request.h"

namespace starling {

struct CacheBounds {
  std::size_t entries_max = 4096;
  std::uint64_t bytes_max = std::uint64_t{64} << 20;
  std::chrono::microseconds age_max = std::chrono::seconds(10);  // older values are dropped
};

// What a cache did since it was made, and what it holds. Not a consistent cut across threads.
struct CacheStats {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t evictions = 0;    // dropped to make room
  std::uint64_t expirations = 0;  // dropped for age
  std::uint64_t oversized = 0;    // never kept, larger than a shard
  std::uint64_t entries = 0;
  std::uint64_t bytes = 0;
};

// Thread-safe: keys are spread over shards with a lock each, held for a lookup in a hash table and never while a value
// is used or freed. Each shard has its share of the bounds, so they hold at every moment; a cache of few entries has
// one shard and forgets in exact order.
//
// Value has `std::uint64_t size_bytes`, all that it keeps alive, and `TimePoint as_of`. Hash spreads over all bits.
template <class Key, class Value, class Hash>
class LruCache {
 public:
  explicit LruCache(const CacheBounds& bounds)
      : shards_(std::clamp<std::size_t>(bounds.entries_max / kEntriesPerShard, 1, kShardsMax)),
        share_{bounds.entries_max / shards_.size(), bounds.bytes_max / shards_.size(), bounds.age_max} {}

  // The value, which now counts as used; null when there is none or it is older than age_max, then it is dropped.
  std::shared_ptr<const Value> find(const Key& key, TimePoint now) {
    std::shared_ptr<const Value> dropped;  // freed after the lock
    auto& shard = shard_of(key);
    const std::lock_guard lock(shard.mutex);
    const auto it = shard.slots.find(key);
    if (it == shard.slots.end()) return nullptr;
    if (now - it->second.value->as_of > share_.age_max) {
      ++shard.expirations;
      dropped = shard.take(it);
      return nullptr;
    }
    shard.order.splice(shard.order.begin(), shard.order, it->second.place);
    return it->second.value;
  }

  // Keeps the value unless a newer one of the same key is kept or it is larger than a shard; true when it was kept.
  bool put(const Key& key, std::shared_ptr<const Value> value) {
    Dropped dropped;
    auto& shard = shard_of(key);
    const std::lock_guard lock(shard.mutex);
    if (share_.entries_max == 0 || value->size_bytes > share_.bytes_max) {
      ++shard.oversized;
      return false;
    }
    if (const auto old = shard.slots.find(key); old != shard.slots.end()) {
      if (old->second.value->as_of > value->as_of) return false;
      dropped.push_back(shard.take(old));
    }
    const auto now = value->as_of;
    while (!shard.order.empty() && now - shard.last()->second.value->as_of > share_.age_max) {
      ++shard.expirations;
      dropped.push_back(shard.take(shard.last()));
    }
    while (shard.slots.size() >= share_.entries_max || shard.bytes + value->size_bytes > share_.bytes_max) {
      ++shard.evictions;
      dropped.push_back(shard.take(shard.last()));
    }
    shard.bytes += value->size_bytes;
    const auto it = shard.slots.emplace(key, Slot{std::move(value), {}}).first;
    shard.order.push_front(&it->first);
    it->second.place = shard.order.begin();
    return true;
  }

  // True when there was one.
  bool remove(const Key& key) {
    std::shared_ptr<const Value> dropped;
    auto& shard = shard_of(key);
    const std::lock_guard lock(shard.mutex);
    const auto it = shard.slots.find(key);
    if (it == shard.slots.end()) return false;
    dropped = shard.take(it);
    return true;
  }

  // Drops every entry for which `unwanted(key, value)`; returns how many. O(entries).
  std::size_t remove_if(const std::function<bool(const Key&, const Value&)>& unwanted) {
    std::size_t removed = 0;
    for (auto& shard : shards_) removed += sweep(shard, unwanted);
    return removed;
  }

  // Drops what is older than age_max; returns how many. O(entries).
  std::size_t purge(TimePoint now) {
    std::size_t removed = 0;
    for (auto& shard : shards_) {
      const auto n = sweep(shard, [&](const Key&, const Value& value) { return now - value.as_of > share_.age_max; });
      const std::lock_guard lock(shard.mutex);
      shard.expirations += n;
      removed += n;
    }
    return removed;
  }

  CacheStats stats() const {
    CacheStats total;
    for (auto& shard : shards_) {
      const std::lock_guard lock(shard.mutex);
      total.evictions += shard.evictions;
      total.expirations += shard.expirations;
      total.oversized += shard.oversized;
      total.entries += shard.slots.size();
      total.bytes += shard.bytes;
    }
    return total;
  }

 private:
  static constexpr std::size_t kEntriesPerShard = 64;
  static constexpr std::size_t kShardsMax = 16;

  struct Slot {
    std::shared_ptr<const Value> value;
    typename std::list<const Key*>::iterator place;
  };
  using Slots = std::unordered_map<Key, Slot, Hash>;
  using Dropped = std::vector<std::shared_ptr<const Value>>;

  struct Shard {
    mutable std::mutex mutex;
    Slots slots;                  // guarded by mutex, as all below
    std::list<const Key*> order;  // last used first; points to the keys of `slots`
    std::uint64_t bytes = 0;
    std::uint64_t evictions = 0;
    std::uint64_t expirations = 0;
    std::uint64_t oversized = 0;

    typename Slots::iterator last() { return slots.find(*order.back()); }

    std::shared_ptr<const Value> take(typename Slots::iterator it) {
      auto value = std::move(it->second.value);
      bytes -= value->size_bytes;
      order.erase(it->second.place);
      slots.erase(it);
      return value;
    }
  };

  template <class Unwanted>
  static std::size_t sweep(Shard& shard, const Unwanted& unwanted) {
    Dropped dropped;
    const std::lock_guard lock(shard.mutex);
    for (auto it = shard.slots.begin(); it != shard.slots.end();) {
      const auto next = std::next(it);
      if (unwanted(it->first, *it->second.value)) dropped.push_back(shard.take(it));
      it = next;
    }
    return dropped.size();
  }

  Shard& shard_of(const Key& key) {
    constexpr std::uint64_t kGolden = 0x9E3779B97F4A7C15;  // the table inside uses the low bits, this the high ones
    return shards_[((Hash{}(key)*kGolden) >> 32) % shards_.size()];
  }

  std::vector<Shard> shards_;
  CacheBounds share_;
};

}  // namespace starling
