#include "predict_call.h"

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

PredictCall::PredictCall(Node& node, grpc::CallbackServerContext& context, const grpc::ByteBuffer& message,
                         grpc::ByteBuffer& response)
    : Inference(node), node_(node), bytes_(message), response_(response) {
  node_.call_started();
  arrival = Clock::now();
  deadline = steady_deadline(context.deadline());
  PredictRequestView view;
  auto parsed = parse_request(bytes_.spans(), view);
  start(std::move(parsed), std::move(view), tenant_of(context));
}

void PredictCall::deliver(wire::Writer&& response) noexcept {
  response_ = to_byte_buffer(std::move(response));
  Finish(grpc::Status::OK);
}

void PredictCall::refuse(const Status& status) noexcept { Finish(to_grpc_status(status, request_id())); }

void PredictCall::OnCancel() { abandon(); }

void PredictCall::OnDone() {
  node_.call_finished();
  delete this;
}

}  // namespace starling::predict
