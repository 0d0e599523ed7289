// One loaded model version: admits, queues, forms batches, runs the engine and hands every request its rows.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "admission_code.h"
#include "batch_memory.h"
#include "model_config.h"
#include "model_stats.h"
#include "pilot.h"
#include "round.h"

namespace starling {

struct SequenceStats {
  std::size_t open = 0;
  std::uint64_t started = 0;
  std::uint64_t expired = 0;    // forgotten because they were idle
  std::uint64_t displaced = 0;  // forgotten to make room for another tenant
};

// Thread-safe. Construct, then warm_up(), then submit(); drain() before the last reference goes.
class Model final : public Round::Work, public std::enable_shared_from_this<Model> {
 public:
  Model(ModelConfig config, std::unique_ptr<Engine> engine);
  ~Model() override;
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // Runs every bucket on zeros until its time is known; throws Error(kEngineFailed).
  void warm_up();

  // Begins to fetch what submit() reads: in the caches is what the engine has used since the last request. Does not
  // wait.
  void prefetch() const noexcept;

  // Takes the request over: complete() will be called exactly once, maybe before this returns. A quick model runs it on
  // this thread, at once or, where batches pay and the thread has a Round, with all others of that.
  STARLING_ADMISSION_CODE void submit(Request& request);

  // Runs batches of what waits, on this thread.
  void run_waiting() override;

  // Takes a queued request out and completes it with kCancelled; a running one just loses its answer.
  void cancel(Request& request);

  // Refuses new requests, answers the admitted ones until `until`, refuses the rest, stops the workers.
  // Returns the number of admitted requests that got no answer.
  std::size_t drain(TimePoint until);

  // Unique for every load and never reused, so that nothing remembered of it can be taken for another's.
  std::uint64_t id() const noexcept { return id_; }
  const ModelConfig& config() const noexcept { return config_; }
  const Engine& engine() const noexcept { return *engine_; }
  const ModelStats& stats() const noexcept { return stats_; }
  // The response cache answers before a request gets here, or lets it pass after a look.
  // `looked_up`: when it began to.
  void count_cache_hit(TimePoint arrival, TimePoint looked_up) noexcept;
  void count_cache_miss(TimePoint looked_up) noexcept;
  void count_cache_put(TimePoint began) noexcept;
  const std::vector<std::unique_ptr<BucketStats>>& buckets() const noexcept { return bucket_stats_; }
  // Estimates that admission uses now, one per bucket.
  std::vector<RunTime> run_times() const;
  // The most that admission keeps free now before the deadline of a request that has to wait.
  std::int64_t margin_us() const;
  std::size_t queued() const;
  bool is_quick() const noexcept { return quick_; }

  // What keeps its objective; null without one.
  Pilot* pilot() const noexcept { return pilot_.get(); }
  // What its queue may do now: what the configuration allows, less what an autopilot took away.
  QueueSetting setting() const;

  // Sequences whose state is kept now, and counts since loading; zeros for a model that keeps none.
  SequenceStats sequences() const;

  // False after several failures in a row; such a model admits one request a second to find out whether it is back.
  bool healthy() const;

 private:
  // One place for a batch in the engine, as far as every decision asks for it. Guarded by mutex_.
  struct Slot {
    TimePoint started;
    TimePoint free_since;
    std::uint32_t bucket = 0;
    bool busy = false;
    bool abandoned = false;  // given up by the watchdog while the engine still holds it
  };
  // What is in a slot. `batch` and `memory` belong to whoever runs it, `requests` is guarded by mutex_.
  struct Content {
    std::vector<Request*> requests;  // in the engine; taken out by finish() or by the watchdog, whoever is first
    Batch batch;
    BatchMemory memory;
  };

  using Refused = std::pair<Request*, Status>;

  // What a thread that looks at the queue has to do: refuse what is not worth computing any more, run a batch.
  struct Turn {
    std::vector<Refused> refused;
    Purged purged;
    std::vector<Request*> requests;
    int slot = -1;                      // to run them in; < 0: nothing to run
    TimePoint wake = TimePoint::max();  // when to look again if nothing else happens
    bool empty() const noexcept { return slot < 0 && purged.empty() && refused.empty(); }
  };

  bool steer(std::unique_lock<std::mutex>& lock, TimePoint now);
  PilotCounters count_for_pilot() const noexcept;
  bool has_slot() const noexcept;
  int take_slot(std::size_t bucket, TimePoint now);
  void sleep(std::unique_lock<std::mutex>& lock, std::size_t worker, TimePoint until);
  void call_worker();
  STARLING_ADMISSION_CODE bool calls_worker();
  STARLING_ADMISSION_CODE Admission admit(Request& request, TimePoint now, int& slot, Status& closed);
  Status explain_to(const Request& request, const Refusal& refusal) const;
  STARLING_ADMISSION_CODE Admission offer(Request& request, TimePoint now);
  [[gnu::cold]] Status closed_status(TimePoint now);
  bool has_turn(Request& request, TimePoint now, Status& refusal);
  void take_turns(TimePoint now, std::vector<Refused>& refused);
  bool is_settled() const noexcept;
  Status expired_status(const Request& request, TimePoint now) const;
  STARLING_ADMISSION_CODE Running running(TimePoint now) const;
  Turn next_turn(TimePoint now);
  void take(Turn&& turn);
  bool put_off();
  void learn(const Request& request, TimePoint ended, bool missed = false);
  void work(std::size_t worker);
  TimePoint give_up_hung_runs(TimePoint now, std::vector<Request*>& given_up);
  void run(int slot, std::vector<Request*> requests);
  void free_slot(int index, TimePoint now);
  void finish(int slot, const std::string& error) noexcept;
  void answer(Request& request, Result&& result);
  void refuse(Request& request, Status status);
  void fail(const std::vector<Request*>& requests, const std::string& failure);
  RunTime run_time_of(const Request& request) const;
  void dispose(const Purged& purged);
  void supersede(Request& request);
  void tell(const Admission& admission);

  const std::uint64_t id_;
  ModelConfig config_;
  std::unique_ptr<Engine> engine_;
  ModelStats stats_;
  std::vector<std::unique_ptr<BucketStats>> bucket_stats_;
  std::unique_ptr<Pilot> pilot_;
  std::condition_variable ready_;    // work for a worker, or stopping
  std::condition_variable settled_;  // nothing queued and every slot free
  // Side by side, because admission reads it all and finds caches cold.
  alignas(64) mutable std::mutex mutex_;
  bool quick_ = false;     // a run costs less than handing it to another thread; fixed after warm_up
  bool gathers_ = false;   // a quick one that is quicker still for rows that come together; fixed after warm_up
  bool admitting_ = true;  // guarded by mutex_, as all below
  bool stopping_ = false;
  bool called_ = false;  // a worker was woken and has not looked yet
  int failures_in_a_row_ = 0;
  std::unique_ptr<Sequences> sequences_;  // null for a model that keeps no state
  TimePoint first_wake_;                  // when the first worker that sleeps wakes by itself
  QueueSetting setting_;
  int in_use_ = 0;  // slots with runs that will end
  int hung_ = 0;    // slots that the watchdog gave up
  std::vector<Slot> slots_;
  std::vector<int> free_slots_;
  ExecutionTime times_;
  Scheduler scheduler_;
  TimePoint last_try_;
  std::vector<Content> contents_;    // of each slot
  std::deque<Request*> turns_;       // steps whose turn has come since, before they are offered to the scheduler
  std::vector<TimePoint> sleeping_;  // until when each worker sleeps; max() of one that is awake
  std::vector<std::thread> workers_;
};

}  // namespace starling
