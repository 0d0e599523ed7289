// What every call of a node shares: its models, its name, and whether it still admits requests.
#pragma once

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>

#include "frame_cache.h"
#include "model_registry.h"
#include "orca.h"
#include "request_view.h"
#include "response_cache.h"
#include "shared_memory.h"

namespace starling::predict {

class StreamCall;

// What models have answered, while they are loaded. Thread-safe.
struct AnswerCaches final : ModelWatcher {
  void forget(std::uint64_t model_id) override;
  FrameCache frames;
  ResponseCache responses{CacheBounds{}, std::random_device{}()};
};

// Thread-safe.
class Node {
 public:
  // tensor_bytes_max: of one tensor in shared memory.
  Node(std::shared_ptr<ModelRegistry> models, std::string name, std::uint64_t shared_bytes_max,
       std::uint64_t tensor_bytes_max)
      : models_(std::move(models)),
        name_(std::move(name)),
        regions_(shared_bytes_max),
        tensor_bytes_max_(tensor_bytes_max) {
    models_->watch(caches_);
  }

  // Makes answers say how busy the node is. Before it serves.
  void report_load() noexcept { reports_load_ = true; }
  // For the trailers of an answer; null unless report_load() was called.
  std::shared_ptr<const std::string> load_report() { return reports_load_ ? load_.report(Clock::now()) : nullptr; }
  // How busy the node is, for those that ask for just that.
  OrcaMeter& load() noexcept { return load_; }

  const std::string& name() const noexcept { return name_; }
  bool draining() const noexcept { return draining_.load(); }

  // Looks a version up, 0 for the highest, and checks that it has the outputs that the request wants.
  Status find(const RequestView& view, const std::string& name, std::int64_t version,
              std::shared_ptr<Model>& model) const;

  FrameCache& frames() noexcept { return caches_->frames; }
  const FrameCache& frames() const noexcept { return caches_->frames; }
  ResponseCache& responses() noexcept { return caches_->responses; }
  const ResponseCache& responses() const noexcept { return caches_->responses; }
  // After an answer was put into a cache: it may have come too late to be forgotten with its model.
  void forget_if_unloaded(const Model& model) {
    if (!models_->holds(model)) caches_->forget(model.id());
  }
  std::uint64_t tensor_bytes_max() const noexcept { return tensor_bytes_max_; }
  SharedMemory& regions() noexcept { return regions_; }
  const SharedMemory& regions() const noexcept { return regions_; }

  // Calls in flight; drain() waits for none. A call is counted before it asks whether the node drains, and the
  // drain begins before it counts: sequentially consistent, so that one of the two sees the other.
  void call_started() noexcept {
    calls_.fetch_add(1);
    if (draining()) late_calls_.fetch_add(1, std::memory_order_relaxed);
  }
  void call_finished() noexcept;
  void add_stream(StreamCall* stream);
  void remove_stream(StreamCall* stream);

  // Refuses new requests, asks streams to end, waits until no call is in flight and no more come, or `until`.
  // Returns the calls left.
  std::int64_t drain(TimePoint until);

  std::int64_t calls() const noexcept { return calls_.load(); }
  std::atomic<std::uint64_t> malformed{0};                // requests that could not be parsed
  mutable std::atomic<std::uint64_t> model_not_found{0};  // requests for a version that is not loaded
  // Bytes of tensors that came and went, and those of them that were copied beside the one copy into the batch and the
  // one out of the engine.
  struct TensorBytes {
    std::atomic<std::uint64_t> passed{0};
    std::atomic<std::uint64_t> copied{0};
  };
  TensorBytes bytes_in;
  TensorBytes bytes_out;
  std::atomic<std::uint64_t> degraded{0};  // requests answered by an alternative

 private:
  Status not_loaded(const std::string& name, std::int64_t version) const;

  std::shared_ptr<ModelRegistry> models_;
  std::string name_;
  const std::shared_ptr<AnswerCaches> caches_ = std::make_shared<AnswerCaches>();
  SharedMemory regions_;
  OrcaMeter load_{[models = models_] { return count_for_orca(models->models()); }};
  bool reports_load_ = false;
  const std::uint64_t tensor_bytes_max_;
  std::atomic<bool> draining_{false};
  std::atomic<std::int64_t> calls_{0};
  std::atomic<std::uint64_t> late_calls_{0};  // calls that came while draining
  std::mutex mutex_;
  std::condition_variable idle_;
  std::set<StreamCall*> streams_;  // guarded by mutex_
};

}  // namespace starling::predict
