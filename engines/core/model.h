// One loaded model version: validates, queues, forms batches, runs the engine and hands every request its rows.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "bucket_policy.h"
#include "deadline_queue.h"
#include "detections.h"
#include "engine.h"
#include "histogram.h"

namespace starling {

enum class Postprocess : std::uint8_t { kNone, kDetections };

struct ModelConfig {
  std::string name;
  std::int64_t version = 1;
  std::string backend;  // "openvino" or "identity"
  std::string path;     // model file; empty for identity
  Signature signature;  // as agents see it
  std::vector<std::int64_t> buckets{1};
  int instances = 1;
  int threads = 1;
  QueueBounds queue;
  std::int64_t batch_delay_us = 0;
  std::int64_t default_timeout_us = 1'000'000;
  Postprocess postprocess = Postprocess::kNone;
  DetectionOptions detections;
  std::int64_t identity_delay_us = 0;
  std::int64_t identity_fail_every = 0;
};

// Monotone counters of one model version.
struct ModelCounters {
  std::array<std::atomic<std::uint64_t>, kReasonCount> finished{};  // by reason; kNone = answered
  std::atomic<std::uint64_t> rows{0};
  std::atomic<std::uint64_t> executions{0};
  std::atomic<std::uint64_t> expired_executed{0};  // requests past their deadline when the engine started: stays 0
  Histogram queue;
  Histogram compute;
  Histogram total;
};

// Measured engine time of one bucket.
struct BucketStats {
  std::int64_t rows = 1;
  Histogram run;
  std::atomic<std::int64_t> recent_us{0};  // exponentially weighted, 1/8 a run
};

// Thread-safe. Construct, then warm_up(), then submit(); drain() before the last reference goes.
class Model {
 public:
  Model(ModelConfig config, std::unique_ptr<Engine> engine);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // Runs every bucket on zeros until its time is known; throws Error(kEngineFailed).
  void warm_up();

  // Takes the request over: complete() will be called exactly once, maybe before this returns.
  void submit(Request& request);

  // Takes a queued request out and completes it with kCancelled; a running one just loses its answer.
  void cancel(Request& request);

  // Refuses new requests, answers the admitted ones until `until`, refuses the rest, stops the workers.
  // Returns the number of admitted requests that got no answer.
  std::size_t drain(TimePoint until);

  const ModelConfig& config() const noexcept { return config_; }
  const Engine& engine() const noexcept { return *engine_; }
  const ModelCounters& counters() const noexcept { return counters_; }
  const std::vector<std::unique_ptr<BucketStats>>& buckets() const noexcept { return bucket_stats_; }
  std::size_t queued() const;
  bool runs_inline() const noexcept { return inline_; }

 private:
  struct Slot {
    Batch batch;
    std::vector<Request*> requests;
    std::vector<std::vector<std::uint8_t>> inputs;  // gather buffers, grown once
    std::int64_t rows = 0;
    std::size_t bucket = 0;
    TimePoint started;
  };

  Status validate(Request& request) const;
  Status validate_input(const TensorSpec& spec, const InputTensor& input) const;
  void work();
  void run(int slot, std::vector<Request*> requests, std::size_t bucket, TimePoint now);
  void gather(Slot& slot, std::int64_t bucket_rows);
  void finish(int slot, const std::string& error);
  void scatter(Slot& slot, std::vector<std::vector<OutputTensor>>& outputs) const;
  std::vector<std::shared_ptr<Buffer>> collect(const Slot& slot) const;
  std::vector<std::shared_ptr<Buffer>> collect_detections(const Slot& slot) const;
  void release(int slot);
  void answer(Request& request, Result&& result);
  void refuse(Request& request, Status status);
  void dispose(const Purged& purged);
  std::size_t pick_bucket(std::int64_t first_rows, std::int64_t waiting_rows, std::int64_t slack_us) const;
  std::int64_t drain_estimate_us() const;

  ModelConfig config_;
  std::unique_ptr<Engine> engine_;
  ModelCounters counters_;
  std::vector<std::unique_ptr<BucketStats>> bucket_stats_;
  bool inline_ = false;  // fixed after warm_up

  mutable std::mutex mutex_;
  std::condition_variable ready_;    // a request and a slot, or stopping
  std::condition_variable settled_;  // queue empty and every slot free
  DeadlineQueue queue_;              // guarded by mutex_
  std::vector<int> free_slots_;      // guarded by mutex_
  bool admitting_ = true;            // guarded by mutex_
  bool stopping_ = false;            // guarded by mutex_
  std::vector<Slot> slots_;          // a slot belongs to whoever took it out of free_slots_
  std::vector<std::thread> workers_;
};

}  // namespace starling
