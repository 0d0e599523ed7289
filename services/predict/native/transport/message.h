// gRPC messages inside HTTP/2 data: five bytes of prefix, then the message, whole or compressed.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "request.h"

namespace starling::transport {

// A received message: pieces in order, each with its own memory. Spans stay valid when it is moved.
class Message {
 public:
  const Spans& spans() const noexcept { return spans_; }

  // Uninitialised memory at its end.
  std::span<std::uint8_t> extend(std::size_t size);
  // Keeps only the first `size` bytes of the last piece.
  void trim_last(std::size_t size) { spans_.back() = spans_.back().first(size); }

 private:
  std::vector<std::unique_ptr<std::uint8_t[]>> pieces_;
  Spans spans_;
};

// Bytes of messages that have not wholly arrived, of all connections of a server together. Thread-safe.
class ReceiveBudget {
 public:
  explicit ReceiveBudget(std::uint64_t bytes_max) : bytes_max_(bytes_max) {}

  bool take(std::uint64_t bytes) noexcept;
  void give_back(std::uint64_t bytes) noexcept { taken_.fetch_sub(bytes, std::memory_order_relaxed); }
  std::uint64_t taken() const noexcept { return taken_.load(std::memory_order_relaxed); }

 private:
  const std::uint64_t bytes_max_;
  std::atomic<std::uint64_t> taken_{0};
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
  // and kMessage the call is over.
  Step read(std::span<const std::uint8_t>& data, Message& out);

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
