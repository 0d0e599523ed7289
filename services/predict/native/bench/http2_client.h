// gRPC's unary calls over one HTTP/2 connection, for generators of load.
//
// It speaks by nghttp2 alone, on its owner's thread and without a queue: a full gRPC client takes longer for a small
// call than a server does, and would measure itself.
#pragma once

#include <nghttp2/nghttp2.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace starling::bench {

using Clock = std::chrono::steady_clock;

// How a call ended.
struct Reply {
  int code = 0;  // canonical gRPC status code
  std::string message;
  std::size_t bytes = 0;  // of the answer, with its prefix
};

// One more header of a call, copied by start(); `is_its_own`: no other call will repeat it.
nghttp2_nv header(std::string_view name, std::string_view value, bool is_its_own = false);

// The value of `grpc-timeout`: the finest unit that holds it in eight digits, rounded up.
std::string grpc_timeout(std::chrono::nanoseconds left);

class Http2Client {
 public:
  struct Stream;
  using Ended = std::function<void(std::size_t call, const Reply& reply)>;

  // Connects to HOST:PORT and hears its settings; throws std::runtime_error when it cannot. Every call is one of
  // `method` and sends `message`; `ended` is told of each that was not cancelled, and may start another.
  Http2Client(const std::string& target, std::string method, std::string message, Ended ended);
  ~Http2Client();
  Http2Client(const Http2Client&) = delete;
  Http2Client& operator=(const Http2Client&) = delete;

  // Starts a call, which its owner knows by a number; `extra` follows the message. What it returns is valid until the
  // call has ended.
  Stream* start(std::size_t call, std::span<const nghttp2_nv> more, std::string_view extra = {});
  // Gives a call up and tells the server.
  void cancel(Stream& stream);

  // Writes what the socket takes at once.
  void flush();
  // Writes, waits until something has come, or more can be written, or `until`, and reads. Returns whether something
  // has come; throws std::runtime_error when the connection is lost, or, without `until`, when the server is silent for
  // ten seconds.
  bool turn(Clock::time_point until = Clock::time_point::max());

  // When what is read now has come.
  Clock::time_point now() const noexcept { return now_; }

 private:
  struct Callbacks;
  struct Socket {
    explicit Socket(const std::string& target);
    ~Socket();
    Socket(const Socket&) = delete;
    Socket& operator=(const Socket&) = delete;

    int fd = -1;
  };
  struct SessionFree {
    void operator()(nghttp2_session* session) const noexcept { nghttp2_session_del(session); }
  };
  // Bytes on their way to the socket: of the message, or, where null, the next ones of `own_`.
  struct Piece {
    const char* message = nullptr;
    std::size_t size = 0;
  };

  void greet(const std::string& target);
  void end(Stream& stream);
  void append(std::string_view bytes);
  void write_data(Stream& stream, std::string_view head, std::size_t size);
  bool wait(Clock::time_point until) const;

  const std::string authority_;
  const std::string method_;
  const std::string message_;
  const Ended ended_;
  const Socket socket_;
  std::list<Stream> streams_;
  std::list<Stream> spare_;  // keep their memory for calls to come
  std::unique_ptr<nghttp2_session, SessionFree> session_;
  std::vector<nghttp2_nv> headers_;
  std::vector<Piece> out_;
  std::string own_;
  std::size_t unsent_ = 0;  // bytes of `out_`
  bool more_ = false;       // may follow them
  std::vector<std::uint8_t> in_;
  Clock::time_point now_;
  bool greeted_ = false;
};

}  // namespace starling::bench
