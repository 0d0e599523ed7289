// starling.predict.v1 on the wire: requests into borrowed views, results into messages.
#pragma once

#include "codec.h"

namespace starling::predict {

// PredictRequest and PredictResponse; in streams PredictStreamRequest{request = 1} and PredictStreamResponse.
class PredictCodec final : public Codec {
 public:
  Status parse(const Spans& message, RequestView& out) const override;
  wire::Writer encode(const Answer& answer, const RequestView& request) const override;
  Status parse_streamed(const Spans& message, RequestView& out) const override;
  wire::Writer encode_streamed(const Answer& answer, const RequestView& request) const override;
  wire::Writer encode_refusal(const Status& status, const RequestView& request) const override;
};

}  // namespace starling::predict
