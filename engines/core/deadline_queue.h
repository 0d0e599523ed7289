// The bounded queue in front of an engine, ordered by class and deadline. Pure: time is an argument.
#pragma once

#include <cstdint>
#include <vector>

#include "request.h"

namespace starling {

struct QueueBounds {
  std::size_t requests_max = 256;
  std::uint64_t bytes_max = std::uint64_t{256} << 20;
};

// Requests that left the queue unanswered because nobody waits for them any more.
struct Purged {
  std::vector<Request*> expired;
  std::vector<Request*> cancelled;
};

// Not thread-safe: the model that owns it holds a lock around each call. All operations are O(log n) a request.
class DeadlineQueue {
 public:
  explicit DeadlineQueue(QueueBounds bounds) : bounds_(bounds) {}

  // False, and nothing changed, when a bound would be exceeded.
  bool try_push(Request& request);

  // True when it was queued and is not any more.
  bool remove(Request& request);

  // Moves out what is cancelled and what has a deadline that is not after `now`.
  Purged purge(TimePoint now);

  // Moves out, in order, as many requests as fit `max_rows`, all with the shapes of the first one.
  // The first request is always taken.
  std::vector<Request*> take(std::int64_t max_rows);

  // Moves everything out, for shutdown.
  std::vector<Request*> drain();

  // Rows that one batch could hold now: those with the shapes of the first request.
  std::int64_t compatible_rows() const;

  const Request* first() const { return queue_.empty() ? nullptr : queue_.begin()->second; }
  std::size_t size() const noexcept { return queue_.size(); }
  bool empty() const noexcept { return queue_.empty(); }
  std::int64_t rows() const noexcept { return rows_; }
  std::uint64_t size_bytes() const noexcept { return size_bytes_; }
  const QueueBounds& bounds() const noexcept { return bounds_; }

 private:
  QueueMap::iterator erase(QueueMap::iterator it);

  QueueBounds bounds_;
  QueueMap queue_;
  std::uint64_t next_ticket_ = 0;
  std::uint64_t size_bytes_ = 0;
  std::int64_t rows_ = 0;
};

// True when two requests may share a batch: the same shapes behind the batch dimension.
bool same_shapes(const Request& a, const Request& b) noexcept;

}  // namespace starling
