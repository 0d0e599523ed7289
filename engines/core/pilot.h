// The autopilot of one model in operation: windows over its counters, a decision a fifth of a second, and their record.
#pragma once

#include <array>
#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "autopilot.h"
#include "histogram.h"
#include "request.h"

namespace starling {

// What a model has done so far. Monotone.
struct PilotCounters {
  std::uint64_t answered = 0;
  std::uint64_t met = 0;  // of these, before their deadline
  std::uint64_t refused = 0;
  std::uint64_t rows = 0;
  std::uint64_t runs = 0;
  std::uint64_t busy_us = 0;
};

// What its queue looks like now.
struct PilotView {
  QueueSetting applied;
  std::int64_t queued = 0;
  std::int64_t wait_us = 0;
  std::vector<RunTime> run_times;
};

// One step of the controller, complete: `decide(policy, before, seen)` gives `decision` again.
struct PilotRecord {
  std::int64_t number = 0;  // of the steps of this model; a gap shows that a reader was too slow
  AutopilotObservation seen;
  AutopilotState before;
  AutopilotDecision decision;
};

// For operators.
struct PilotStatus {
  PilotRecord last;                                            // number 0: none yet
  std::array<std::uint64_t, kAutopilotReasonCount> changes{};  // decisions that change something, by reason
};

// Thread-safe.
class Pilot {
 public:
  static constexpr std::chrono::milliseconds kPeriod{200};
  static constexpr std::size_t kRecordsMax = 256;  // almost a minute

  Pilot(AutopilotPolicy policy, AutopilotMode mode, TimePoint born);

  AutopilotMode mode() const noexcept { return mode_; }
  const AutopilotPolicy& policy() const noexcept { return policy_; }

  // Counts one answer. Lock-free.
  void record_answer(TimePoint arrival, std::int64_t total_us) noexcept {
    answers_.record(total_us);
    if (arrival.time_since_epoch().count() >= changed_.load(std::memory_order_relaxed)) fresh_.record(total_us);
  }

  // True once a period: whoever hears it calls step().
  bool is_due(TimePoint now) noexcept;
  TimePoint next_due() const noexcept { return TimePoint(Clock::duration(next_due_.load(std::memory_order_relaxed))); }

  // Looks at the last window and decides; returns what is to be applied: in `advise` mode what is applied already.
  // Nothing is recorded while nothing happens.
  QueueSetting step(TimePoint now, const PilotCounters& counters, PilotView view);

  PilotStatus status() const;

  // The records since the last call, oldest first, at most kRecordsMax of them.
  std::vector<PilotRecord> take_records();

 private:
  using Counts = std::array<std::uint64_t, FineHistogram::kBuckets>;
  struct Snapshot {
    TimePoint at;
    PilotCounters counters;
    Counts answers{};
    Counts fresh{};  // of requests that came after the last change
  };

  const Snapshot& base_for(const Snapshot& last) const;
  AutopilotObservation observe(const Snapshot& base, const Snapshot& last, PilotView&& view) const;

  const AutopilotPolicy policy_;
  const AutopilotMode mode_;
  const TimePoint born_;
  FineHistogram answers_;
  FineHistogram fresh_;
  std::atomic<Clock::rep> changed_;  // when the setting was last changed
  std::atomic<Clock::rep> next_due_;
  mutable std::mutex mutex_;
  std::deque<std::unique_ptr<Snapshot>> snapshots_;  // guarded by mutex_, as all below; oldest first
  QueueSetting applied_;
  AutopilotState state_;
  PilotStatus status_;
  QueueSetting counted_;  // the change that was counted last, so that standing advice counts once
  std::deque<PilotRecord> records_;
};

}  // namespace starling
