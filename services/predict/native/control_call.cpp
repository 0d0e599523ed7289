#include "control_call.h"

#include "grpc_bytes.h"
#include "refusal.h"

namespace starling::predict {
namespace {

std::string to_string(const grpc::ByteBuffer& buffer) {
  const MessageBytes bytes(buffer);
  std::string out;
  for (const auto piece : bytes.spans()) out.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  return out;
}

Status draining(const Node& node) {
  return {
      Reason::kDraining, "node " + node.name() + " is draining; send to another node", 1000, {{"node", node.name()}}};
}

}  // namespace

// Deletes itself when gRPC is done with it.
class ControlReactor final : public grpc::ServerGenericBidiReactor {
 public:
  ControlReactor(Node& node, ControlService& service, const grpc::GenericCallbackServerContext& context, bool streaming)
      : node_(node), service_(service), method_(context.method()), streaming_(streaming) {
    const auto left = context.deadline() - std::chrono::system_clock::now();
    deadline_s_ = std::min(86'400.0, std::chrono::duration<double>(left).count());
    StartRead(&incoming_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) {
      // The caller half-closed: the end of a stream, or a unary call without a message.
      Finish(streaming_ ? grpc::Status::OK : grpc::Status(grpc::StatusCode::INTERNAL, "the request has no message"));
      return;
    }
    auto call = std::make_shared<ControlCall>(method_, to_string(incoming_), deadline_s_);
    call->reactor_ = this;
    // A drain waits for answers, not for a stream whose caller says nothing.
    waits_ = true;
    node_.call_started();
    {
      const std::lock_guard lock(mutex_);
      call_ = call;
    }
    if (node_.draining()) {
      call->refuse(draining(node_));
    } else if (!service_.offer(call)) {
      call->refuse({Reason::kQueueFull,
                    "too many control calls wait on node " + node_.name() + ", at most " +
                        std::to_string(ControlService::kQueueMax) + "; retry after the given delay",
                    1'000'000,
                    {{"node", node_.name()}}});
    }
  }

  void OnWriteDone(bool ok) override {
    if (ok && streaming_) {
      waits_ = false;
      node_.call_finished();
      StartRead(&incoming_);
    } else {
      Finish(ok ? grpc::Status::OK : grpc::Status(grpc::StatusCode::CANCELLED, "the caller left"));
    }
  }

  // Python's answer comes later into an empty hand.
  void OnCancel() override {
    std::shared_ptr<ControlCall> call;
    {
      const std::lock_guard lock(mutex_);
      call = call_;
    }
    if (call) call->refuse({Reason::kCancelled, "cancelled by the caller", 0, {}});
  }

  void OnDone() override {
    if (waits_) node_.call_finished();
    delete this;
  }

  void write(const std::string& response) {
    const grpc::Slice slice(response.data(), response.size());
    outgoing_ = grpc::ByteBuffer(&slice, 1);
    if (streaming_) {
      StartWrite(&outgoing_);
    } else {
      StartWriteAndFinish(&outgoing_, grpc::WriteOptions(), grpc::Status::OK);
    }
  }

 private:
  Node& node_;
  ControlService& service_;
  std::string method_;
  bool streaming_;
  double deadline_s_ = 0;
  bool waits_ = false;  // a message has come and its answer has not gone; callbacks of one call never overlap in it
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;
  std::mutex mutex_;
  std::shared_ptr<ControlCall> call_;  // guarded by mutex_
};

namespace {

class RefusingReactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit RefusingReactor(const grpc::Status& status) { Finish(status); }
  void OnDone() override { delete this; }
};

}  // namespace

void ControlCall::reply(const std::string& response) {
  const std::lock_guard lock(mutex_);
  if (auto* reactor = std::exchange(reactor_, nullptr)) reactor->write(response);
}

void ControlCall::fail(int code, const std::string& text, const std::string& details) {
  const std::lock_guard lock(mutex_);
  if (auto* reactor = std::exchange(reactor_, nullptr)) {
    reactor->Finish({static_cast<grpc::StatusCode>(code), text, details});
  }
}

void ControlCall::refuse(const Status& status) {
  fail(canonical_code(status.reason), clip_message(status.message),
       encode_details(status, canonical_code(status.reason), {}));
}

grpc::ServerGenericBidiReactor* ControlService::CreateReactor(grpc::GenericCallbackServerContext* context) {
  const auto it = methods_.find(context->method());
  if (it == methods_.end()) {
    return new RefusingReactor({grpc::StatusCode::UNIMPLEMENTED, "method " + clip_message(context->method()) +
                                                                     " is not served by this node; list its services "
                                                                     "with grpcurl -plaintext ADDRESS list"});
  }
  return new ControlReactor(node_, *this, *context, it->second);
}

bool ControlService::offer(std::shared_ptr<ControlCall> call) {
  const std::lock_guard lock(mutex_);
  if (closed_ || queue_.size() >= kQueueMax) return false;
  queue_.push_back(std::move(call));
  ready_.notify_one();
  return true;
}

std::shared_ptr<ControlCall> ControlService::next(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  ready_.wait_for(lock, timeout, [this] { return closed_ || !queue_.empty(); });
  if (queue_.empty()) return nullptr;
  auto call = std::move(queue_.front());
  queue_.pop_front();
  return call;
}

void ControlService::close() {
  std::deque<std::shared_ptr<ControlCall>> left;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    left.swap(queue_);
    ready_.notify_all();
  }
  for (const auto& call : left) call->refuse(draining(node_));
}

}  // namespace starling::predict
