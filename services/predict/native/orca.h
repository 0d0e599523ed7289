// How busy a node is, in the words of ORCA (xds.data.orca.v3.OrcaLoadReport), which gateways and clients read in the
// trailers of answers.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "model.h"

namespace starling::predict {

// One report. Shares are 0 to 1 but for `utilization`, which may be more when runs end in bunches.
struct OrcaReport {
  double utilization = 0.0;      // application_utilization: of the engine slots of the fullest model
  double cpu_utilization = 0.0;  // of the cores we may use
  double mem_utilization = 0.0;  // of the machine's memory
  double rps = 0.0;              // rps_fractional: requests answered or refused per second
  double eps = 0.0;              // those of them that the node did not answer though it was asked rightly
  std::vector<std::pair<std::string, double>> named_metrics;
};

std::string encode(const OrcaReport& report);

// What a node has done so far. Monotone but for the last three.
struct OrcaCounters {
  struct Slots {
    std::uint64_t model_id = 0;
    std::uint64_t busy_us = 0;
    int count = 1;
  };
  std::vector<Slots> models;
  std::uint64_t finished = 0;
  std::uint64_t failed = 0;    // refused for want of room or time, or broken
  std::uint64_t answered = 0;  // those that the two below count
  std::uint64_t queue_us = 0;
  std::uint64_t compute_us = 0;
  std::uint64_t cpu_us = 0;  // of this process
  double cores = 1.0;
  double mem_utilization = 0.0;
  std::uint64_t queued = 0;
};

// Reads the counters of models and of this process.
OrcaCounters count_for_orca(const std::vector<std::shared_ptr<Model>>& models);

// What lies between two readings; zeros when no time has passed.
OrcaReport compare(const OrcaCounters& before, const OrcaCounters& now, std::chrono::microseconds window);

// Keeps the report of the last second. Thread-safe; asking costs a lock and a copied pointer but for the one caller in
// a tenth of a second who makes it anew.
class OrcaMeter {
 public:
  explicit OrcaMeter(std::function<OrcaCounters()> count) : count_(std::move(count)) {}

  // The serialised report.
  std::shared_ptr<const std::string> report(TimePoint now);

 private:
  const std::function<OrcaCounters()> count_;
  std::mutex mutex_;
  std::deque<std::pair<TimePoint, OrcaCounters>> readings_;  // guarded by mutex_, as all below; oldest first
  std::shared_ptr<const std::string> current_;
};

}  // namespace starling::predict
