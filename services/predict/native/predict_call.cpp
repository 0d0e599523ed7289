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
    : node_(node), context_(context), bytes_(message), response_(response) {
  node_.call_started();
  arrival = Clock::now();
  deadline = steady_deadline(context_.deadline());
  start();
}

void PredictCall::start() {
  auto status = parse_request(bytes_.spans(), view_);
  if (!status.ok()) node_.malformed.fetch_add(1, std::memory_order_relaxed);
  view_.tenant = tenant_of(context_);
  if (status.ok()) status = node_.admit(view_, *this, model_);
  if (!status.ok()) {
    Finish(to_grpc_status(status, view_.request_id));
    return;
  }
  // This call may be gone before submit() returns; the model must not be.
  const auto keep = model_;
  keep->submit(*this);
}

void PredictCall::complete(Result&& result) noexcept {
  if (!result.status.ok()) {
    Finish(to_grpc_status(result.status, view_.request_id));
    return;
  }
  const auto& config = model_->config();
  response_ = to_byte_buffer(
      encode_response({config.name, config.version, view_.request_id, node_.name()}, result, view_.output_names));
  Finish(grpc::Status::OK);
}

void PredictCall::OnCancel() {
  if (model_) model_->cancel(*this);
}

void PredictCall::OnDone() {
  node_.call_finished();
  delete this;
}

}  // namespace starling::predict
