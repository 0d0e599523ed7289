// One unary Predict: parse, submit, answer. No Python, no protobuf objects, one copy in and one out.
#pragma once

#include <grpcpp/grpcpp.h>

#include "grpc_bytes.h"
#include "node.h"

namespace starling::predict {

// Deletes itself when gRPC is done with it.
class PredictCall final : public grpc::ServerUnaryReactor, public Request {
 public:
  PredictCall(Node& node, grpc::CallbackServerContext& context, const grpc::ByteBuffer& message,
              grpc::ByteBuffer& response);

  void complete(Result&& result) noexcept override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // OnDone and OnCancel never block, so gRPC may run them on its own thread: without this every call costs two
  // switches to an executor thread (measured: a third of the requests a second).
  bool InternalInlineable() override { return true; }

  void start();

  Node& node_;
  grpc::CallbackServerContext& context_;
  MessageBytes bytes_;
  grpc::ByteBuffer& response_;
  PredictRequestView view_;
  std::shared_ptr<Model> model_;
};

// Who pays for a call's engine time: the header `x-tenant`, which the gateway sets; empty without it.
std::string tenant_of(const grpc::ServerContextBase& context);

// The steady time at which a call's gRPC deadline passes; max() when it has none.
TimePoint steady_deadline(std::chrono::system_clock::time_point deadline) noexcept;

}  // namespace starling::predict
