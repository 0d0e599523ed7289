// The waiting requests of one tenant, in the order in which they run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "request.h"

namespace starling {

// Place in a queue: earliest due first (arrival first under FIFO), then arrival order.
struct QueueKey {
  TimePoint due;
  std::uint64_t ticket = 0;

  bool operator<(const QueueKey& other) const noexcept {
    return due != other.due ? due < other.due : ticket < other.ticket;
  }
};

// One array with all that admission asks of those who wait: it finds caches cold, and their requests somewhere in
// memory would cost it more than the decision. O(n) moves of a few bytes to insert and erase; O(1) at both ends.
class TenantQueue {
 public:
  struct Entry {
    QueueKey key;
    TimePoint deadline;
    std::int64_t rows = 0;
    std::uint64_t stream = 0;  // hash of its stream; 0: none
    Request* request = nullptr;
  };

  bool empty() const noexcept { return first_ == entries_.size(); }
  std::size_t size() const noexcept { return entries_.size() - first_; }
  const Entry* begin() const noexcept { return entries_.data() + first_; }
  const Entry* end() const noexcept { return entries_.data() + entries_.size(); }
  const Entry& front() const noexcept { return entries_[first_]; }
  const Entry& back() const noexcept { return entries_.back(); }

  // The first that is due later.
  const Entry* after(TimePoint due) const noexcept {
    return std::upper_bound(begin(), end(), due, [](TimePoint at, const Entry& entry) { return at < entry.key.due; });
  }

  // The frame of a stream; null when none waits.
  Request* find(std::uint64_t stream, const std::string& stream_id) const noexcept {
    const auto* found = std::find_if(begin(), end(), [&](const Entry& entry) {
      return entry.stream == stream && entry.request->stream_id == stream_id;
    });
    return found == end() ? nullptr : found->request;
  }

  void insert(const Entry& entry) {
    if (first_ > 0 && entries_.size() == entries_.capacity()) {
      entries_.erase(entries_.begin(), entries_.begin() + static_cast<std::ptrdiff_t>(first_));
      first_ = 0;
    }
    entries_.insert(at(entry.key), entry);
  }

  void erase(const QueueKey& key) {
    const auto found = at(key);
    if (found == entries_.begin() + static_cast<std::ptrdiff_t>(first_)) {
      ++first_;
    } else {
      entries_.erase(found);
    }
    if (empty()) {
      entries_.clear();
      first_ = 0;
    }
  }

  // Gives every entry a new key.
  template <class KeyOf>
  void reorder(const KeyOf& key_of) {
    for (auto it = entries_.begin() + static_cast<std::ptrdiff_t>(first_); it != entries_.end(); ++it) {
      it->key = key_of(*it->request);
    }
    std::sort(entries_.begin() + static_cast<std::ptrdiff_t>(first_), entries_.end(),
              [](const Entry& a, const Entry& b) { return a.key < b.key; });
  }

 private:
  std::vector<Entry>::iterator at(const QueueKey& key) {
    return std::lower_bound(entries_.begin() + static_cast<std::ptrdiff_t>(first_), entries_.end(), key,
                            [](const Entry& entry, const QueueKey& k) { return entry.key < k; });
  }

  std::vector<Entry> entries_;
  std::size_t first_ = 0;  // those before it have left
};

}  // namespace starling
