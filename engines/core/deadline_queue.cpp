#include "deadline_queue.h"

#include <algorithm>

namespace starling {

bool same_shapes(const Request& a, const Request& b) noexcept {
  return std::equal(a.inputs.begin(), a.inputs.end(), b.inputs.begin(), b.inputs.end(),
                    [](const InputTensor& x, const InputTensor& y) {
                      return std::equal(x.shape.begin() + 1, x.shape.end(), y.shape.begin() + 1, y.shape.end());
                    });
}

bool DeadlineQueue::try_push(Request& request) {
  if (queue_.size() >= bounds_.requests_max || size_bytes_ + request.size_bytes > bounds_.bytes_max) return false;
  const QueueKey key{request.priority, request.deadline, next_ticket_++};
  request.position_ = queue_.emplace(key, &request).first;
  request.queued_ = true;
  size_bytes_ += request.size_bytes;
  rows_ += request.rows;
  return true;
}

QueueMap::iterator DeadlineQueue::erase(QueueMap::iterator it) {
  Request& request = *it->second;
  size_bytes_ -= request.size_bytes;
  rows_ -= request.rows;
  request.queued_ = false;
  return queue_.erase(it);
}

bool DeadlineQueue::remove(Request& request) {
  if (!request.queued_) return false;
  erase(request.position_);
  return true;
}

Purged DeadlineQueue::purge(TimePoint now) {
  Purged purged;
  for (auto it = queue_.begin(); it != queue_.end();) {
    Request* request = it->second;
    if (request->cancelled.load(std::memory_order_relaxed)) {
      purged.cancelled.push_back(request);
      it = erase(it);
    } else if (request->deadline <= now) {
      purged.expired.push_back(request);
      it = erase(it);
    } else {
      ++it;
    }
  }
  return purged;
}

std::vector<Request*> DeadlineQueue::take(std::int64_t max_rows) {
  std::vector<Request*> batch;
  std::int64_t rows = 0;
  for (auto it = queue_.begin(); it != queue_.end() && (batch.empty() || rows < max_rows);) {
    Request* request = it->second;
    const bool fits = batch.empty() || (rows + request->rows <= max_rows && same_shapes(*batch.front(), *request));
    if (!fits) {
      ++it;
      continue;
    }
    rows += request->rows;
    batch.push_back(request);
    it = erase(it);
  }
  return batch;
}

std::vector<Request*> DeadlineQueue::drain() {
  std::vector<Request*> all;
  all.reserve(queue_.size());
  for (auto it = queue_.begin(); it != queue_.end(); it = erase(it)) all.push_back(it->second);
  return all;
}

std::int64_t DeadlineQueue::compatible_rows() const {
  if (queue_.empty()) return 0;
  const Request& head = *queue_.begin()->second;
  std::int64_t rows = 0;
  for (const auto& [key, request] : queue_) {
    if (request == &head || same_shapes(head, *request)) rows += request->rows;
  }
  return rows;
}

}  // namespace starling
