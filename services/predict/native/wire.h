// Protobuf's wire format over borrowed bytes in pieces, and a writer that keeps big payloads by reference.
// Knows no gRPC and no protobuf objects: tensors are never copied to be parsed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "request.h"

namespace starling::wire {

enum class Type : std::uint8_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

struct Tag {
  std::uint32_t field = 0;
  Type type = Type::kVarint;
};

// Reads a message that lies in one or more pieces. Every read is checked against the enclosing message's end;
// after the first failure all reads fail. Borrows the pieces.
class Reader {
 public:
  explicit Reader(const Spans& pieces);

  // True while the current message has bytes left and nothing failed.
  bool more() const noexcept { return left_ > 0 && !failed_; }
  bool failed() const noexcept { return failed_; }
  std::uint64_t left() const noexcept { return left_; }

  bool tag(Tag& out);
  bool varint(std::uint64_t& out);
  bool text(std::string& out, std::size_t max_size);  // length-delimited, valid UTF-8, at most max_size bytes
  bool bytes(Spans& out, std::uint64_t& size);        // length-delimited, borrowed
  bool fixed32(std::uint32_t& out);
  bool fixed(Spans& out, std::uint64_t size);  // of a known width, borrowed
  // One field of a repeated integer, packed or not; fails when `out` gets longer than max_size.
  bool integers(Type type, std::vector<std::int64_t>& out, std::size_t max_size);
  bool skip(Type type);

  // Enters a length-delimited message; leave() with the returned value goes on behind it.
  bool enter(std::uint64_t& outer_left);
  void leave(std::uint64_t outer_left);

 private:
  bool fail() noexcept {
    failed_ = true;
    return false;
  }
  bool byte(std::uint8_t& out);
  bool length(std::uint64_t& out);
  bool advance(std::uint64_t n, Spans* out);

  const Spans& pieces_;
  std::size_t piece_ = 0;
  std::size_t offset_ = 0;  // in the piece
  std::uint64_t left_ = 0;  // bytes to the end of the current message
  bool failed_ = false;
};

bool is_utf8(std::string_view text) noexcept;

// Bytes of a buffer.
struct Range {
  std::shared_ptr<const Buffer> buffer;
  std::size_t offset = 0;
  std::size_t size = 0;

  const std::uint8_t* data() const noexcept { return buffer->data() + offset; }
};

// An encoded message: its own bytes, and payloads by reference between them.
struct Encoded {
  struct Payload {
    std::size_t at = 0;  // own bytes before it
    Range range;
  };

  std::string own;
  std::vector<Payload> payloads;  // by `at`
  std::uint64_t size = 0;         // of all together
};

// Bytes a varint takes.
std::size_t varint_size(std::uint64_t value) noexcept;

// Appends fields in order. Zero and empty values are left out, as proto3 does, but for choices and elements.
class Writer {
 public:
  void varint(std::uint32_t field, std::uint64_t value);
  void fixed32(std::uint32_t field, std::uint32_t value);
  void real(std::uint32_t field, double value);
  void text(std::uint32_t field, std::string_view value);
  void message(std::uint32_t field, const Writer& value);
  void message(std::uint32_t field, Writer&& value);
  void choice(std::uint32_t field, std::uint64_t value);      // a varint of a oneof, also when it is 0
  void element(std::uint32_t field, std::string_view value);  // of a repeated field, also when it is empty
  // A bytes field, kept by reference.
  void bytes(std::uint32_t field, const std::shared_ptr<const Buffer>& buffer, std::size_t offset, std::size_t size);
  void packed(std::uint32_t field, const Shape& values);

  // A message that is encoded already.
  void raw(std::string_view bytes) { append(bytes); }

  // Fields of the same message.
  void append(const Writer& fields);
  void append(Writer&& fields);

  std::uint64_t size() const noexcept { return out_.size; }
  // What was written; the writer is empty afterwards.
  Encoded take() { return std::exchange(out_, {}); }
  // Everything in one string, for small messages.
  std::string str() const;

 private:
  void raw_varint(std::uint64_t value);
  void tag(std::uint32_t field, Type type);
  void append(std::string_view bytes);

  Encoded out_;
};

}  // namespace starling::wire
