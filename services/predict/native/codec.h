// The seam between the one path that requests take and the formats in which they come and go.
#pragma once

#include "model_config.h"
#include "request_view.h"
#include "wire.h"

namespace starling::predict {

// What is to be said about an answered request. Borrows everything.
struct Answer {
  const ModelConfig& model;  // that answered
  const std::vector<OutputTensor>& outputs;
  Timing timing;
  std::string_view node = {};
  bool from_cache = false;
  double similarity = 0;
  std::int64_t staleness_ms = 0;
  std::string_view degraded_to = {};
};

// One format of requests and answers. Stateless but for options, so that all calls share one.
class Codec {
 public:
  virtual ~Codec() = default;

  // Fills `out`; the status says which field is wrong, what was found and what was expected.
  virtual Status parse(const Spans& message, RequestView& out) const = 0;
  virtual wire::Writer encode(const Answer& answer, const RequestView& request) const = 0;

  // The same for one message of a stream, whose refusals are messages too.
  virtual Status parse_streamed(const Spans& message, RequestView& out) const = 0;
  virtual wire::Writer encode_streamed(const Answer& answer, const RequestView& request) const = 0;
  virtual wire::Writer encode_refusal(const Status& status, const RequestView& request) const = 0;

  // The gRPC status code of a refusal.
  virtual int code(Reason reason) const noexcept { return canonical_code(reason); }
};

}  // namespace starling::predict
