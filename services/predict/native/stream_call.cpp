#include "stream_call.h"

#include "unary_call.h"

namespace starling::predict {

StreamCall::StreamCall(Node& node, const Codec& codec, grpc::CallbackServerContext& context)
    : node_(node), codec_(codec), deadline_(steady_deadline(context.deadline())), tenant_(tenant_of(context)) {
  node_.call_started();
  node_.add_stream(this);
  const std::lock_guard lock(mutex_);
  draining_ = node_.draining();
  advance_locked();
}

void StreamCall::drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
  advance_locked();
}

// Starts whatever can start: the next read, the next write, the end.
void StreamCall::advance_locked() {
  if (finished_) return;
  const bool ending = half_closed_ || draining_ || broken_;
  if (!reading_ && !ending && items_.size() < kWindow) {
    reading_ = true;
    StartRead(&incoming_);
  }
  if (!writing_ && !broken_ && !items_.empty() && items_.front()->done) {
    writing_ = true;
    outgoing_ = items_.front()->take_answer();
    StartWrite(&outgoing_);
  }
  if (!ending || writing_) return;
  if (broken_) {
    // Nobody reads the answers any more; wait only for the engine to let go of the requests.
    while (!items_.empty() && items_.front()->done) items_.pop_front();
  }
  if (!items_.empty()) return;
  finished_ = true;
  if (draining_ && !half_closed_) {
    const Status draining{Reason::kDraining, "node " + node_.name() + " is draining; open the stream again", 1000, {}};
    Finish(to_grpc_status(draining, codec_.code(draining.reason), {}));
  } else {
    Finish(broken_ ? grpc::Status(grpc::StatusCode::CANCELLED, "the caller left") : grpc::Status::OK);
  }
}

// Reads on only when the request has entered its model's queue: steps of a sequence and frames of a camera are in the
// order of their messages, and the next message may be handed to another thread.
void StreamCall::OnReadDone(bool ok) {
  Item* item = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (ok && !finished_) {
      items_.push_back(std::make_unique<Item>(*this, incoming_));
      item = items_.back().get();
      incoming_.Clear();
    } else {
      reading_ = false;
      half_closed_ = half_closed_ || !ok;
      advance_locked();
    }
  }
  if (item == nullptr) return;
  item->run();
  const std::lock_guard lock(mutex_);
  reading_ = false;
  advance_locked();
}

void StreamCall::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  broken_ = broken_ || !ok;
  items_.pop_front();
  advance_locked();
}

void StreamCall::OnCancel() {
  std::vector<Item*> running;
  {
    const std::lock_guard lock(mutex_);
    broken_ = true;
    for (const auto& item : items_) {
      if (!item->done) running.push_back(item.get());
    }
    // While this runs no item is freed: an item leaves items_ only through advance_locked, and an unfinished
    // one only after it is done.
    for (auto* item : running) item->cancelled.store(true, std::memory_order_relaxed);
    advance_locked();
  }
}

void StreamCall::OnDone() {
  node_.remove_stream(this);
  node_.call_finished();
  delete this;
}

void StreamCall::item_done(Item& item) {
  const std::lock_guard lock(mutex_);
  item.done = true;
  advance_locked();
}

void StreamCall::Item::run() {
  arrival = Clock::now();
  deadline = call_.deadline_;
  RequestView request;
  auto parsed = call_.codec_.parse_streamed(bytes_.spans(), request);
  start(std::move(parsed), std::move(request), call_.tenant_);
}

void StreamCall::Item::deliver(const Answer& answer) noexcept {
  answer_ = to_byte_buffer(call_.codec_.encode_streamed(answer, view()));
  call_.item_done(*this);
}

void StreamCall::Item::refuse(const Status& status) noexcept {
  answer_ = to_byte_buffer(call_.codec_.encode_refusal(status, view()));
  call_.item_done(*this);
}

}  // namespace starling::predict
