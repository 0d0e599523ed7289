// A request as any wire format says it: what admission, the ladder and the answer need of a message.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "request.h"

namespace starling::predict {

// When an earlier answer of the stream will do.
struct CachePolicy {
  std::int64_t staleness_max_us = 0;
  double similarity_min = 0.95;
};

// One step of the degradation ladder.
struct Alternative {
  enum class Kind : std::uint8_t { kNone, kModel, kCached, kLastValue } kind = Kind::kNone;
  std::string model_name;
  CachePolicy cache;  // of kCached and kLastValue
};

// Bytes of a registered region of shared memory.
struct RegionRange {
  std::string region;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

// An output that the request names.
struct WantedOutput {
  std::string name;
  std::int64_t classes = 0;           // the so many best elements as text instead of all; 0: all
  std::optional<RegionRange> region;  // where its bytes go instead of into the answer
};

// A parsed request. Tensor bytes are borrowed from the message.
struct RequestView {
  std::string model_name;
  std::int64_t model_version = 0;  // 0: the highest
  std::string request_id;
  std::vector<InputTensor> inputs;
  std::vector<std::pair<std::size_t, RegionRange>> input_regions;  // inputs whose bytes lie in shared memory
  std::vector<WantedOutput> outputs;                               // empty: all
  std::string stream_id;
  std::int64_t sequence = 0;
  std::string sequence_id;
  bool sequence_start = false;
  bool sequence_end = false;
  std::int32_t priority = 0;
  std::optional<std::int64_t> budget_us;
  std::optional<CachePolicy> cache;
  std::vector<Alternative> allow;
  bool wants_timing = false;  // of a format whose answers say where the time went only when asked to
  std::uint64_t copied = 0;   // bytes of the message that were copied on their way here
};

inline constexpr std::size_t kNameMax = 256;
inline constexpr std::size_t kIdMax = 128;
inline constexpr std::size_t kTensorsMax = 64;
inline constexpr std::int32_t kPriorityMax = 3;
inline constexpr std::size_t kAlternativesMax = 4;

}  // namespace starling::predict
