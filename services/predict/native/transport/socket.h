// One accepted connection as bytes: plain, or TLS over it.
#pragma once

#include <openssl/ssl.h>

#include <cstdint>
#include <memory>
#include <span>

#include "wire.h"

namespace starling::transport {

struct SslFree {
  void operator()(SSL* ssl) const noexcept { SSL_free(ssl); }
};

// Non-blocking. Owns the descriptor.
class Socket {
 public:
  enum class State : std::uint8_t { kDone, kAgain, kClosed };
  static constexpr std::size_t kPiecesMax = 256;  // of one write

  Socket(int fd, SSL_CTX* tls);  // tls: null for plain text
  ~Socket();
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  int fd() const noexcept { return fd_; }

  // Reads at least one byte; `size` says how many.
  State read(std::span<std::uint8_t> into, std::size_t& size);

  // True when more can be read than the descriptor says.
  bool has_pending() const noexcept;

  // Writes from the front of `pieces`; `size` says how many were taken.
  State write(std::span<const std::span<const std::uint8_t>> pieces, std::size_t& size);

  // kDone at once for plain text; the read or write that is missing comes with kAgain.
  State handshake();
  bool wants_write() const noexcept { return wants_write_; }

  // The least time that a byte took to the peer and its acknowledgement back, in the last minutes; 0 while unknown.
  Clock::duration round_trip() const noexcept;

  // True when bytes are on their way to the peer and its machine was heard of in the last `time`.
  bool is_draining(Clock::duration time) const noexcept;

 private:
  State state_of(int result);

  const int fd_;
  std::unique_ptr<SSL, SslFree> ssl_;
  bool wants_write_ = false;
};

}  // namespace starling::transport
