// Between gRPC's byte buffers and the wire layer: borrowed on the way in, by reference on the way out.
#pragma once

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <vector>

#include "wire.h"

namespace starling::predict {

// The pieces of a message and the slices that keep them alive.
class MessageBytes {
 public:
  explicit MessageBytes(const grpc::ByteBuffer& buffer);
  const Spans& spans() const noexcept { return spans_; }

 private:
  std::vector<grpc::Slice> slices_;
  Spans spans_;
};

// Small pieces are copied into one slice, large ones keep their shared buffer alive until sent.
grpc::ByteBuffer to_byte_buffer(wire::Writer&& message);

// Status with google.rpc details.
grpc::Status to_grpc_status(const Status& status, int code, std::string_view request_id);

}  // namespace starling::predict
