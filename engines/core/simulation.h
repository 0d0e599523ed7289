// Runs the real scheduler in virtual time against an engine that only takes time: for tests and for planning.
#pragma once

#include <cstdint>
#include <vector>

#include "pilot.h"
#include "scheduler.h"

namespace starling {

// One arrival. Times in microseconds from the start of the simulation.
struct SimulatedRequest {
  std::int64_t arrival_us = 0;
  std::int64_t deadline_us = 0;  // absolute
  std::int32_t priority = 0;
  std::int32_t tenant = 0;
  std::int32_t stream = -1;  // -1: none
  std::int64_t sequence = 0;
  std::int64_t rows = 1;
};

// What became of it. `start_us` and `end_us` are of the engine run and -1 when there was none.
struct SimulatedOutcome {
  Reason reason = Reason::kNone;
  std::int64_t start_us = -1;
  std::int64_t end_us = -1;       // of the run, or when the refusal was known
  std::int64_t predicted_us = 0;  // from arrival
  std::int64_t batch_rows = 0;
};

// From `at_us` on, runs take `factor` times as long: a neighbour on the same machine comes or goes.
struct Slowdown {
  std::int64_t at_us = 0;
  double factor = 1;
};

struct SimulationOptions {
  SchedulerOptions scheduler;
  std::vector<std::int64_t> bucket_rows;    // ascending
  std::vector<std::int64_t> bucket_run_us;  // true run time of each bucket
  double noise = 0;                         // runs take up to this share longer, uniformly
  std::uint64_t seed = 0;
  int cores = 0;                    // runs side by side beyond these slow each other down; 0: as many as slots
  std::vector<Slowdown> slowdowns;  // by time
  AutopilotMode autopilot = AutopilotMode::kOff;
  std::int64_t slo_p99_us = 0;
  double slo_miss_rate = 0.01;
};

struct SimulationReport {
  std::vector<SimulatedOutcome> outcomes;
  AutopilotPolicy policy;
  std::vector<PilotRecord> records;  // of all steps of the autopilot
};

// requests: by arrival; one that comes before its predecessor arrives with it. Returns one outcome each, in the same
// order. Deterministic.
SimulationReport simulate(const std::vector<SimulatedRequest>& requests, const SimulationOptions& options);

}  // namespace starling
