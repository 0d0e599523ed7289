#include "predict_stream.h"

#include "predict_call.h"

namespace starling::predict {

PredictStreamCall::PredictStreamCall(Node& node, grpc::CallbackServerContext& context)
    : node_(node), deadline_(steady_deadline(context.deadline())), tenant_(tenant_of(context)) {
  node_.call_started();
  node_.add_stream(this);
  const std::lock_guard lock(mutex_);
  draining_ = node_.draining();
  advance_locked();
}

void PredictStreamCall::drain() {
  const std::lock_guard lock(mutex_);
  draining_ = true;
  advance_locked();
}

// Starts whatever can start: the next read, the next write, the end.
void PredictStreamCall::advance_locked() {
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
    Finish(to_grpc_status({Reason::kDraining, "node " + node_.name() + " is draining; open the stream again", 1000, {}},
                          {}));
  } else {
    Finish(broken_ ? grpc::Status(grpc::StatusCode::CANCELLED, "the caller left") : grpc::Status::OK);
  }
}

void PredictStreamCall::OnReadDone(bool ok) {
  Item* item = nullptr;
  {
    const std::lock_guard lock(mutex_);
    reading_ = false;
    if (ok && !finished_) {
      items_.push_back(std::make_unique<Item>(*this, incoming_));
      item = items_.back().get();
      incoming_.Clear();
    } else {
      half_closed_ = half_closed_ || !ok;
      advance_locked();
    }
  }
  if (item == nullptr) return;
  item->run();
  const std::lock_guard lock(mutex_);
  advance_locked();
}

void PredictStreamCall::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  broken_ = broken_ || !ok;
  items_.pop_front();
  advance_locked();
}

void PredictStreamCall::OnCancel() {
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

void PredictStreamCall::OnDone() {
  node_.remove_stream(this);
  node_.call_finished();
  delete this;
}

void PredictStreamCall::item_done(Item& item) {
  const std::lock_guard lock(mutex_);
  item.done = true;
  advance_locked();
}

void PredictStreamCall::Item::run() {
  arrival = Clock::now();
  deadline = call_.deadline_;
  PredictRequestView view;
  auto parsed = parse_stream_request(bytes_.spans(), view);
  start(std::move(parsed), std::move(view), call_.tenant_);
}

void PredictStreamCall::Item::deliver(wire::Writer&& response) noexcept {
  answer_ = to_byte_buffer(encode_stream_response(response));
  call_.item_done(*this);
}

void PredictStreamCall::Item::refuse(const Status& status) noexcept {
  answer_ = to_byte_buffer(encode_stream_error(status, request_id()));
  call_.item_done(*this);
}

}  // namespace starling::predict
