#include "control_call.h"

#include "refusal.h"
#include "unary_call.h"

namespace starling::predict {
namespace {

std::string to_string(const Spans& pieces) {
  std::string out;
  for (const auto piece : pieces) out.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  return out;
}

wire::Writer to_message(const std::string& bytes) {
  wire::Writer message;
  message.raw(bytes);
  return message;
}

Status draining(const Node& node) {
  return {
      Reason::kDraining, "node " + node.name() + " is draining; send to another node", 1000, {{"node", node.name()}}};
}

}  // namespace

// One call, message by message.
class ControlStream final : public transport::Call {
 public:
  ControlStream(Node& node, ControlService& service, bool streams, transport::CallHead&& head)
      : node_(node), service_(service), streams_(streams), method_(std::move(head.method)), deadline_(head.deadline) {}

  ~ControlStream() override {
    if (pending_) node_.call_finished();
  }

  void on_message(transport::Message&& message) override {
    constexpr double kDay = 86'400;
    const std::chrono::duration<double> left = deadline_ - Clock::now();
    call_ = std::make_shared<ControlCall>(method_, to_string(message.spans()), std::min(kDay, left.count()));
    call_->stream_ = this;
    // A drain waits for answers, not for a stream whose caller says nothing.
    node_.call_started();
    {
      const std::lock_guard lock(mutex_);
      pending_ = true;
    }
    if (node_.draining()) {
      call_->refuse(draining(node_));
    } else if (!service_.offer(call_)) {
      call_->refuse({Reason::kQueueFull,
                     "too many control calls wait on node " + node_.name() + ", at most " +
                         std::to_string(ControlService::kQueueMax) + "; retry after the given delay",
                     1'000'000,
                     {{"node", node_.name()}}});
    }
  }

  void on_half_close() override {
    {
      const std::lock_guard lock(mutex_);
      half_closed_ = true;
      if (pending_ || std::exchange(finished_, true)) return;
    }
    finish(transport::Ending{});
  }

  // Python's answer comes later into an empty hand.
  void on_cancel() override {
    if (call_) call_->refuse({Reason::kCancelled, "cancelled by the caller", 0, {}});
    fail({});
  }

  // From any thread, once per message.
  void answer(const std::string& response) {
    {
      const std::lock_guard lock(mutex_);
      if (finished_) return;
      if (streams_) {
        send(to_message(response));
        pending_ = false;
        node_.call_finished();
        if (!half_closed_) return;
      }
      finished_ = true;
    }
    if (streams_) {
      finish(transport::Ending{});
    } else {
      finish(to_message(response));
    }
  }

  void fail(transport::Ending&& ending) {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(finished_, true)) return;
    }
    finish(std::move(ending));
  }

 private:
  Node& node_;
  ControlService& service_;
  const bool streams_;
  const std::string method_;
  const TimePoint deadline_;
  std::shared_ptr<ControlCall> call_;  // of the last message; the loop's
  std::mutex mutex_;
  bool pending_ = false;  // guarded by mutex_, as all below: a message has come and its answer has not gone
  bool half_closed_ = false;
  bool finished_ = false;
};

namespace {

class UnknownMethod final : public transport::Call {
 public:
  explicit UnknownMethod(transport::CallHead&& head) : method_(std::move(head.method)) {}
  void on_open() override {
    finish({transport::kUnimplemented,
            "method " + clip_message(method_) +
                " is not served by this node; list its services with grpcurl -plaintext ADDRESS list",
            {}});
  }
  void on_message(transport::Message&&) override {}
  void on_half_close() override {}
  void on_cancel() override {}

 private:
  const std::string method_;
};

}  // namespace

void ControlCall::reply(const std::string& response) {
  const std::lock_guard lock(mutex_);
  if (auto* stream = std::exchange(stream_, nullptr)) stream->answer(response);
}

void ControlCall::fail(int code, const std::string& text, const std::string& details) {
  const std::lock_guard lock(mutex_);
  if (auto* stream = std::exchange(stream_, nullptr)) stream->fail({code, text, details});
}

void ControlCall::refuse(const Status& status) {
  const auto ending = to_ending(status, canonical_code(status.reason), {});
  fail(ending.code, ending.message, ending.details);
}

transport::Method ControlService::method(bool streams) {
  return {[this, streams](transport::CallHead&& head) {
            return std::make_unique<ControlStream>(node_, *this, streams, std::move(head));
          },
          streams ? 1 : 0};
}

transport::Method unknown_method() {
  return {[](transport::CallHead&& head) { return std::make_unique<UnknownMethod>(std::move(head)); }, 1};
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
