// One unary request: parse, submit, answer. No Python, no protobuf objects, one copy in and one out.
#pragma once

#include "inference.h"
#include "transport/call.h"

namespace starling::predict {

class UnaryCall final : public transport::Call, public Inference {
 public:
  UnaryCall(Node& node, const Codec& codec, transport::CallHead&& head);
  ~UnaryCall() override;

  void on_message(transport::Message&& message) override;
  void on_half_close() override {}
  void on_cancel() override;

 private:
  void deliver(const Answer& answer) noexcept override;
  void refuse(const Status& status) noexcept override;

  Node& node_;
  const Codec& codec_;
  std::string tenant_;
  const std::string routed_;
  transport::Message message_;
  bool started_ = false;  // the loop's
};

// How a call ends that is refused.
transport::Ending to_ending(const Status& status, int code, std::string_view request_id);

}  // namespace starling::predict
