// What a model version has done: monotone counters and histograms, written without locks.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "histogram.h"
#include "scheduler.h"

namespace starling {

// Of one priority class.
struct ClassStats {
  std::atomic<std::uint64_t> met{0};     // answered before the deadline
  std::atomic<std::uint64_t> missed{0};  // answered later, refused or dropped
  Histogram slack;                       // time left at completion, of those met
  Histogram lateness;                    // time over at completion, of those answered late
};

struct ModelStats {
  std::array<std::atomic<std::uint64_t>, kReasonCount> finished{};  // by reason; kNone = answered
  std::array<ClassStats, Scheduler::kClasses> classes;
  std::atomic<std::uint64_t> rows{0};
  std::atomic<std::uint64_t> executions{0};
  std::atomic<std::uint64_t> expired_executed{0};  // requests past their deadline when the engine started: stays 0
  std::atomic<std::uint64_t> hung{0};              // runs given up by the watchdog
  std::atomic<std::uint64_t> failed_us{0};         // arrival to refusal of everything that was not answered
  std::atomic<std::uint64_t> cache_hits{0};        // requests answered from equal inputs, which the model never saw
  std::atomic<std::uint64_t> cache_hit_us{0};      // arrival to answer of those
  std::atomic<std::uint64_t> cache_hit_ns{0};      // looking up, of those
  std::atomic<std::uint64_t> cache_misses{0};
  std::atomic<std::uint64_t> cache_miss_ns{0};  // looking up and keeping the answer, of the others
  std::atomic<std::int64_t> last_answer_us{0};  // on the steady clock; 0: none yet
  Histogram queue;
  Histogram batch_wait;
  Histogram compute;
  Histogram total;
  Histogram early;             // predicted minus actual completion, where it came sooner
  Histogram late;              // actual minus predicted, where it came later
  FineHistogram admission_ns;  // nanoseconds, not microseconds: what deciding costs
};

// Measured engine time of one bucket.
struct BucketStats {
  std::int64_t rows = 1;
  Histogram run;                         // warm-up included
  std::atomic<std::uint64_t> served{0};  // runs for requests that did not fail
  std::atomic<std::uint64_t> served_us{0};
};

}  // namespace starling
