// The Open Inference Protocol on the wire: requests into borrowed views, results into messages.
#pragma once

#include "codec.h"

namespace starling::predict {

// ModelInferRequest and ModelInferResponse; in streams ModelInferRequest and ModelStreamInferResponse.
class InferCodec final : public Codec {
 public:
  // Whose status codes a refusal has: this project's, or those that Triton gives for the same reason.
  enum class Statuses : std::uint8_t { kOwn, kTriton };

  explicit InferCodec(Statuses statuses) : statuses_(statuses) {}

  Status parse(const Spans& message, RequestView& out) const override;
  wire::Writer encode(const Answer& answer, const RequestView& request) const override;
  Status parse_streamed(const Spans& message, RequestView& out) const override;
  wire::Writer encode_streamed(const Answer& answer, const RequestView& request) const override;
  wire::Writer encode_refusal(const Status& status, const RequestView& request) const override;
  int code(Reason reason) const noexcept override;

 private:
  const Statuses statuses_;
};

}  // namespace starling::predict
