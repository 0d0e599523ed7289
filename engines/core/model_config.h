// What a model version is and how it is run, as the repository says it.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "autopilot.h"
#include "detections.h"
#include "scheduler.h"
#include "sequences.h"

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
  Discipline discipline = Discipline::kDeadline;
  std::int64_t batch_delay_us = 0;
  std::int64_t watchdog_us = 5'000'000;  // a run that takes longer has hung
  std::int64_t default_timeout_us = 1'000'000;
  std::int64_t response_cache_us = 0;  // answers to equal inputs are kept this long; 0: not at all
  Postprocess postprocess = Postprocess::kNone;
  DetectionOptions detections;
  std::int64_t identity_delay_us = 0;
  std::int64_t identity_fail_every = 0;
  // False: tensors have no batch dimension; `dims` are whole shapes, a request is one row, the only bucket is 1.
  bool batched = true;
  SequenceOptions sequences;
  std::map<std::string, std::vector<std::string>> labels;  // of the classes of an output, by its name
  std::int32_t default_priority = 0;                       // of requests that name none
  AutopilotMode autopilot = AutopilotMode::kOff;           // of a model without an objective, whatever it says
  std::int64_t slo_p99_us = 0;                             // 0: no objective
  double slo_miss_rate = 0.01;

  bool is_stateful() const noexcept { return !sequences.states.empty(); }
};

// What the engine itself reads and writes: the signature, and the states behind it.
Signature with_states(Signature signature, const SequenceOptions& sequences);

inline std::string label(const ModelConfig& config) { return config.name + ":" + std::to_string(config.version); }

}  // namespace starling
