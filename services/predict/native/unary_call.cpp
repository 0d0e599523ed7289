#include "unary_call.h"

namespace starling::predict {

TimePoint steady_deadline(std::chrono::system_clock::time_point deadline) noexcept {
  const auto left = deadline - std::chrono::system_clock::now();
  if (left > std::chrono::hours(24)) return TimePoint::max();
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(left);
}

std::string tenant_of(const grpc::ServerContextBase& context) {
  const auto& headers = context.client_metadata();
  const auto it = headers.find("x-tenant");
  if (it == headers.end()) return {};
  return {it->second.data(), std::min(it->second.size(), kIdMax)};
}

UnaryCall::UnaryCall(Node& node, const Codec& codec, grpc::CallbackServerContext& context,
                     const grpc::ByteBuffer& message, grpc::ByteBuffer& response)
    : Inference(node), node_(node), codec_(codec), bytes_(message), response_(response) {
  node_.call_started();
  arrival = Clock::now();
  deadline = steady_deadline(context.deadline());
  RequestView request;
  auto parsed = codec_.parse(bytes_.spans(), request);
  start(std::move(parsed), std::move(request), tenant_of(context));
}

void UnaryCall::deliver(const Answer& answer) noexcept {
  response_ = to_byte_buffer(codec_.encode(answer, view()));
  Finish(grpc::Status::OK);
}

void UnaryCall::refuse(const Status& status) noexcept {
  Finish(to_grpc_status(status, codec_.code(status.reason), view().request_id));
}

void UnaryCall::OnCancel() { abandon(); }

void UnaryCall::OnDone() {
  node_.call_finished();
  delete this;
}

}  // namespace starling::predict
