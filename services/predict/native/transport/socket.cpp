#include "socket.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>

namespace starling::transport {
namespace {

// For so long a peer may take none of what was sent to it; whether it lives while there is nothing to take, its
// connection asks.
constexpr int kUntakenMsMax = 30'000;

// All zero for what is no TCP socket.
tcp_info info_of(int fd) noexcept {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) != 0) return {};
  return info;
}

}  // namespace

Socket::Socket(int fd, SSL_CTX* tls) : fd_(fd) {
  const auto set = [fd](int option, int value) { setsockopt(fd, IPPROTO_TCP, option, &value, sizeof value); };
  set(TCP_USER_TIMEOUT, kUntakenMsMax);
  set(TCP_NODELAY, 1);
  if (tls == nullptr) return;
  ssl_.reset(SSL_new(tls));
  if (!ssl_ || SSL_set_fd(ssl_.get(), fd) != 1) {
    ssl_.reset();
    shutdown(fd, SHUT_RDWR);  // the next read says closed
    return;
  }
  SSL_set_accept_state(ssl_.get());
}

Socket::~Socket() {
  if (ssl_ && SSL_is_init_finished(ssl_.get())) SSL_shutdown(ssl_.get());
  ERR_clear_error();
  close(fd_);
}

Socket::State Socket::state_of(int result) {
  const int error = SSL_get_error(ssl_.get(), result);
  ERR_clear_error();
  wants_write_ = error == SSL_ERROR_WANT_WRITE;
  return error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE ? State::kAgain : State::kClosed;
}

Socket::State Socket::handshake() {
  if (!ssl_ || SSL_is_init_finished(ssl_.get())) return State::kDone;
  const int result = SSL_do_handshake(ssl_.get());
  if (result != 1) return state_of(result);
  wants_write_ = false;
  const unsigned char* name = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl_.get(), &name, &size);
  return size > 0 ? State::kDone : State::kClosed;
}

Clock::duration Socket::round_trip() const noexcept {
  const auto info = info_of(fd_);
  return std::chrono::microseconds(info.tcpi_min_rtt == ~0U ? 0 : info.tcpi_min_rtt);
}

bool Socket::is_draining(Clock::duration time) const noexcept {
  const auto info = info_of(fd_);
  return info.tcpi_unacked + info.tcpi_notsent_bytes > 0 && std::chrono::milliseconds(info.tcpi_last_ack_recv) < time;
}

Socket::State Socket::read(std::span<std::uint8_t> into, std::size_t& size) {
  size = 0;
  if (ssl_) {
    // One record at a time is all that it gives.
    while (size < into.size()) {
      std::size_t got = 0;
      const int result = SSL_read_ex(ssl_.get(), into.data() + size, into.size() - size, &got);
      if (result != 1) {
        const auto state = state_of(result);
        return size > 0 && state == State::kAgain ? State::kDone : state;
      }
      size += got;
    }
    return State::kDone;
  }
  ssize_t got = 0;
  do {
    got = recv(fd_, into.data(), into.size(), 0);
  } while (got < 0 && errno == EINTR);
  if (got < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? State::kAgain : State::kClosed;
  size = static_cast<std::size_t>(got);
  return got > 0 ? State::kDone : State::kClosed;
}

bool Socket::has_pending() const noexcept { return ssl_ && SSL_has_pending(ssl_.get()) == 1; }

Socket::State Socket::write(std::span<const std::span<const std::uint8_t>> pieces, std::size_t& size) {
  size = 0;
  if (ssl_) {
    for (const auto piece : pieces) {
      std::size_t written = 0;
      const int result = SSL_write_ex(ssl_.get(), piece.data(), piece.size(), &written);
      if (result != 1) return state_of(result);
      size += written;
      if (written < piece.size()) return State::kAgain;
    }
    return State::kDone;
  }
  std::array<iovec, kPiecesMax> parts;
  const auto count = std::min(pieces.size(), parts.size());
  for (std::size_t i = 0; i < count; ++i) {
    parts[i] = {const_cast<std::uint8_t*>(pieces[i].data()), pieces[i].size()};  // NOLINT: the kernel only reads it
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = count;
  ssize_t sent = 0;
  do {
    sent = sendmsg(fd_, &message, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return errno == EAGAIN || errno == EWOULDBLOCK ? State::kAgain : State::kClosed;
  size = static_cast<std::size_t>(sent);
  return State::kDone;
}

}  // namespace starling::transport
