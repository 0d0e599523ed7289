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
  Histogram queue;
  Histogram batch_wait;
  Histogram compute;
  Histogram total;
  Histogram early;         // predicted minus actual completion, where it came sooner
  Histogram late;          // actual minus predicted, where it came later
  Histogram admission_ns;  // nanoseconds, not microseconds: what deciding costs
};

// Measured engine time of one bucket.
struct BucketStats {
  std::int64_t rows = 1;
  Histogram run;
};

}  // namespace starling
