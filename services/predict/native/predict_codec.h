// starling.predict.v1 on the wire: requests into borrowed views, results into messages, refusals into details.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "wire.h"

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

// A parsed PredictRequest. Tensor bytes are borrowed from the message.
struct PredictRequestView {
  std::string model_name;
  std::int64_t model_version = 0;
  std::string request_id;
  std::vector<InputTensor> inputs;
  std::vector<std::string> output_names;
  std::string stream_id;
  std::int64_t sequence = 0;
  std::int32_t priority = 0;
  std::optional<std::int64_t> budget_us;
  std::optional<CachePolicy> cache;
  std::vector<Alternative> allow;
  std::string sequence_id;
  bool sequence_start = false;
  bool sequence_end = false;
};

inline constexpr std::size_t kNameMax = 256;
inline constexpr std::size_t kIdMax = 128;
inline constexpr std::size_t kTensorsMax = 64;
inline constexpr std::int32_t kPriorityMax = 3;
inline constexpr std::size_t kAlternativesMax = 4;

// Fills `out`; the status says which field is wrong, what was found and what was expected.
Status parse_request(const Spans& message, PredictRequestView& out);

// The same for PredictStreamRequest{request = 1}.
Status parse_stream_request(const Spans& message, PredictRequestView& out);

// Who answers, for the response.
struct ResponseHeader {
  std::string_view model_name;
  std::int64_t model_version = 0;
  std::string_view request_id;
  std::string_view node;
  bool from_cache = false;
  double similarity = 0;
  std::int64_t staleness_ms = 0;
  std::string_view degraded_to;
};

// PredictResponse with the outputs named in `wanted`, or all when it is empty.
wire::Writer encode_response(const ResponseHeader& header, const std::vector<OutputTensor>& outputs,
                             const Timing& timing, const std::vector<std::string>& wanted);

// PredictStreamResponse around a response or a refusal.
wire::Writer encode_stream_response(const wire::Writer& response);
wire::Writer encode_stream_error(const Status& status, std::string_view request_id);

// At most 1 KiB of UTF-8, marked where it was cut: what a refusal says to people.
std::string clip_message(const std::string& text);

// Serialised google.rpc.Status with ErrorInfo (domain "starling") and, for a retry delay, RetryInfo:
// the value of the grpc-status-details-bin trailer.
std::string encode_details(const Status& status, std::string_view request_id);

}  // namespace starling::predict
