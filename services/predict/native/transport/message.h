// gRPC messages inside HTTP/2 data: five bytes of prefix, then the message, whole or compressed.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "request.h"
#include "slab.h"

namespace starling::transport {

// A received message: pieces in order, in the memory that the socket was read into or in its own. Spans stay valid when
// it is moved.
class Message {
 public:
  const Spans& spans() const noexcept { return spans_; }
  // Bytes of it that lie in its own memory.
  std::uint64_t copied() const noexcept { return copied_; }

  // Bytes of a slab at its end.
  void refer(std::span<const std::uint8_t> bytes, const SlabRef& slab);

  // Uninitialised memory at its end.
  std::span<std::uint8_t> extend(std::size_t size);
  // Keeps only the first `size` bytes of the last piece, which is its own.
  void trim_last(std::size_t size);

 private:
  std::vector<std::unique_ptr<std::uint8_t[]>> pieces_;
  std::vector<SlabRef> slabs_;
  Spans spans_;
  std::uint64_t copied_ = 0;
};

enum class Encoding : std::uint8_t { kIdentity, kGzip, kDeflate, kUnknown };

Encoding encoding_from_name(std::string_view name) noexcept;

// Puts the messages of one call together. Memory grows with what has come, not with what a prefix claims.
class MessageReader {
 public:
  enum class Step : std::uint8_t { kMore, kMessage, kTooLarge, kBadEncoding, kNoMemory };

  MessageReader(ReceiveBudget& budget, std::uint64_t bytes_max) : budget_(budget), bytes_max_(bytes_max) {}
  ~MessageReader() { budget_.give_back(held_); }
  MessageReader(const MessageReader&) = delete;
  MessageReader& operator=(const MessageReader&) = delete;

  void set_encoding(Encoding encoding) noexcept { encoding_ = encoding; }

  // Takes bytes off the front of `data` up to the end of a message, which is then in `out`. After anything but kMore
  // and kMessage the call is over. slab: what keeps `data`, so that it need not be copied; empty: nothing does.
  Step read(std::span<const std::uint8_t>& data, Message& out, const SlabRef& slab = {});

  // False inside a message.
  bool at_start() const noexcept { return prefix_size_ == 0; }
  // What the prefix of the message claims.
  std::uint64_t size() const noexcept { return size_; }

 private:
  Step finish(Message& out);

  ReceiveBudget& budget_;
  const std::uint64_t bytes_max_;
  Encoding encoding_ = Encoding::kIdentity;
  std::array<std::uint8_t, 5> prefix_{};
  std::size_t prefix_size_ = 0;
  std::uint64_t size_ = 0;
  std::uint64_t left_ = 0;        // of the message
  std::span<std::uint8_t> room_;  // at the end of message_
  std::uint64_t held_ = 0;        // of the budget
  Message message_;
};

}  // namespace starling::transport
