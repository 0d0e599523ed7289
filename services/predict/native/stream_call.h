// One stream of requests: several in flight, answers in request order.
#pragma once

#include <grpcpp/grpcpp.h>

#include <deque>
#include <memory>
#include <mutex>

#include "grpc_bytes.h"
#include "inference.h"

namespace starling::predict {

// Reads ahead at most kWindow requests, so a slow reader or engine slows the sender down instead of filling memory.
// Deletes itself when gRPC is done with it.
class StreamCall final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  static constexpr std::size_t kWindow = 16;

  StreamCall(Node& node, const Codec& codec, grpc::CallbackServerContext& context);

  // Reads nothing more, answers what was read, ends with UNAVAILABLE.
  void drain();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // One request of the stream. Lives in items_ until its answer is written.
  class Item final : public Inference {
   public:
    Item(StreamCall& call, const grpc::ByteBuffer& message) : Inference(call.node_), call_(call), bytes_(message) {}
    void run();
    grpc::ByteBuffer take_answer() { return std::move(answer_); }
    bool done = false;  // guarded by call_.mutex_

   private:
    void deliver(const Answer& answer) noexcept override;
    void refuse(const Status& status) noexcept override;

    StreamCall& call_;
    MessageBytes bytes_;
    grpc::ByteBuffer answer_;
  };

  void item_done(Item& item);
  void advance_locked();

  Node& node_;
  const Codec& codec_;
  TimePoint deadline_;
  std::string tenant_;
  grpc::ByteBuffer incoming_;
  grpc::ByteBuffer outgoing_;

  std::mutex mutex_;
  std::deque<std::unique_ptr<Item>> items_;  // guarded by mutex_
  bool reading_ = false;                     // guarded by mutex_, as all below
  bool writing_ = false;
  bool half_closed_ = false;
  bool draining_ = false;
  bool broken_ = false;
  bool finished_ = false;
};

}  // namespace starling::predict
