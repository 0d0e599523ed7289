#include "stream_call.h"

#include "unary_call.h"

namespace starling::predict {

StreamCall::StreamCall(Node& node, const Codec& codec, transport::CallHead&& head)
    : node_(node),
      codec_(codec),
      deadline_(head.deadline),
      tenant_(std::move(head.tenant)),
      routed_(std::move(head.routed)) {
  node_.call_started();
}

StreamCall::~StreamCall() {
  node_.remove_stream(this);
  node_.call_finished();
}

template <class Change>
void StreamCall::advance(Change&& change) {
  transport::Ending ending;
  {
    const std::lock_guard lock(mutex_);
    change();
    if (finished_) return;
    while (!items_.empty() && items_.front()->done) {
      if (!broken_) send(items_.front()->take_answer());
      items_.pop_front();
    }
    if (!items_.empty() || !(half_closed_ || draining_ || broken_)) return;
    finished_ = true;
    if (draining_ && !half_closed_) {
      const Status draining{
          Reason::kDraining, "node " + node_.name() + " is draining; open the stream again", 1000, {}};
      ending = to_ending(draining, codec_.code(draining.reason), {});
    }
  }
  finish(std::move(ending));  // may delete this
}

void StreamCall::on_open() {
  node_.add_stream(this);
  advance([this] { draining_ = draining_ || node_.draining(); });
}

void StreamCall::drain() {
  advance([this] { draining_ = true; });
}

// Steps of a sequence and frames of a camera enter their model's queue in the order of their messages: the next
// message comes when this one has.
void StreamCall::on_message(transport::Message&& message) {
  Item* item = nullptr;
  {
    const std::lock_guard lock(mutex_);
    if (finished_ || draining_ || broken_) return;
    items_.push_back(std::make_shared<Item>(*this, std::move(message)));
    item = items_.back().get();
  }
  item->run();
}

void StreamCall::on_half_close() {
  advance([this] { half_closed_ = true; });
}

// Nobody reads the answers any more: what is queued leaves its queue, what runs is waited for.
void StreamCall::on_cancel() {
  std::vector<std::shared_ptr<Item>> left;
  advance([&] {
    broken_ = true;
    left.assign(items_.begin(), items_.end());
  });
  for (const auto& item : left) item->abandon();
}

void StreamCall::Item::run() {
  arrival = Clock::now();
  deadline = call_.deadline_;
  RequestView request;
  auto parsed = call_.codec_.parse_streamed(message_.spans(), request);
  request.copied = message_.copied();
  start(std::move(parsed), std::move(request), call_.tenant_, call_.routed_);
}

void StreamCall::Item::deliver(const Answer& answer) noexcept {
  answer_ = call_.codec_.encode_streamed(answer, view());
  call_.advance([this] { done = true; });
}

void StreamCall::Item::refuse(const Status& status) noexcept {
  answer_ = call_.codec_.encode_refusal(status, view());
  call_.advance([this] { done = true; });
}

}  // namespace starling::predict
