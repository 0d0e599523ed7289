#include "unary_call.h"

#include "refusal.h"

namespace starling::predict {

transport::Ending to_ending(const Status& status, int code, std::string_view request_id) {
  return {code, clip_message(status.message), encode_details(status, code, request_id)};
}

UnaryCall::UnaryCall(Node& node, const Codec& codec, transport::CallHead&& head)
    : Inference(node), node_(node), codec_(codec), tenant_(std::move(head.tenant)), routed_(std::move(head.routed)) {
  node_.call_started();
  deadline = head.deadline;
}

UnaryCall::~UnaryCall() { node_.call_finished(); }

void UnaryCall::on_message(transport::Message&& message) {
  started_ = true;
  message_ = std::move(message);
  arrival = Clock::now();
  RequestView request;
  auto parsed = codec_.parse(message_.spans(), request);
  request.copied = message_.copied();
  start(std::move(parsed), std::move(request), std::move(tenant_), routed_);
}

void UnaryCall::deliver(const Answer& answer) noexcept {
  transport::Ending ending;
  ending.load = node_.load_report();
  finish(codec_.encode(answer, view()), std::move(ending));
}

void UnaryCall::refuse(const Status& status) noexcept {
  auto ending = to_ending(status, codec_.code(status.reason), view().request_id);
  ending.load = node_.load_report();
  finish(std::move(ending));
}

void UnaryCall::on_cancel() {
  if (started_) return abandon();
  finish(transport::Ending{});
}

}  // namespace starling::predict
