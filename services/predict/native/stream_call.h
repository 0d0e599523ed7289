// One stream of requests: several in flight, answers in request order.
#pragma once

#include <deque>
#include <memory>
#include <mutex>

#include "inference.h"
#include "transport/call.h"

namespace starling::predict {

class StreamCall final : public transport::Call {
 public:
  // Requests read and not yet answered, so that a slow reader or engine slows the sender down instead of filling
  // memory.
  static constexpr int kWindow = 16;

  StreamCall(Node& node, const Codec& codec, transport::CallHead&& head);
  ~StreamCall() override;

  // Reads nothing more, answers what was read, ends with UNAVAILABLE. From any thread that keeps it in its node.
  void drain();

  void on_open() override;
  void on_message(transport::Message&& message) override;
  void on_half_close() override;
  void on_cancel() override;

 private:
  // One request of the stream. Lives in items_ until its answer is sent.
  class Item final : public Inference {
   public:
    Item(StreamCall& call, transport::Message&& message)
        : Inference(call.node_), call_(call), message_(std::move(message)) {}
    void run();
    wire::Writer take_answer() { return std::move(answer_); }
    bool done = false;  // guarded by call_.mutex_

   private:
    void deliver(const Answer& answer) noexcept override;
    void refuse(const Status& status) noexcept override;

    StreamCall& call_;
    transport::Message message_;
    wire::Writer answer_;
  };

  // Changes the state under the lock, sends what can go, and ends the call, outside the lock, when all is said.
  template <class Change>
  void advance(Change&& change);

  Node& node_;
  const Codec& codec_;
  const TimePoint deadline_;
  const std::string tenant_;
  const std::string routed_;

  std::mutex mutex_;
  std::deque<std::shared_ptr<Item>> items_;  // guarded by mutex_, as all below
  bool half_closed_ = false;
  bool draining_ = false;
  bool broken_ = false;
  bool finished_ = false;
};

}  // namespace starling::predict
