#include "grpc_bytes.h"

#include <grpcpp/support/slice.h>

#include "refusal.h"

namespace starling::predict {

MessageBytes::MessageBytes(const grpc::ByteBuffer& buffer) {
  if (!buffer.Valid()) return;  // an empty message
  buffer.Dump(&slices_);
  spans_.reserve(slices_.size());
  for (const auto& slice : slices_) spans_.emplace_back(slice.begin(), slice.size());
}

grpc::ByteBuffer to_byte_buffer(wire::Writer&& message) {
  std::vector<grpc::Slice> slices;
  for (auto& piece : message.take()) {
    if (!piece.shared) {
      slices.emplace_back(piece.own.data(), piece.own.size());
      continue;
    }
    auto* keep = new std::shared_ptr<const Buffer>(std::move(piece.shared));  // NOLINT: freed by the slice
    auto* data = const_cast<std::uint8_t*>((*keep)->data() + piece.offset);   // NOLINT: gRPC only reads it
    slices.emplace_back(data, piece.size, [](void* p) { delete static_cast<std::shared_ptr<const Buffer>*>(p); }, keep);
  }
  return {slices.data(), slices.size()};
}

grpc::Status to_grpc_status(const Status& status, int code, std::string_view request_id) {
  return {static_cast<grpc::StatusCode>(code), clip_message(status.message), encode_details(status, code, request_id)};
}

}  // namespace starling::predict
