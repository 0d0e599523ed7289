// One HTTP/2 connection that carries gRPC calls. nghttp2 does the framing; this does the calls.
#pragma once

#include <nghttp2/nghttp2.h>

#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "call.h"
#include "reset_filter.h"
#include "socket.h"

namespace starling::transport {

class EventLoop;
struct Post;

// Shared by all connections of a server.
struct ConnectionOptions {
  std::uint64_t message_bytes_max = 64 << 20;
  std::uint32_t streams_max = 1024;  // concurrent calls of one connection
  // A peer of which nothing came for once to twice as long is sent a PING, and has as long again for a sign of life.
  // Clients of gRPC's core that wait for nothing look for one every 5 s.
  Clock::duration silence_max = std::chrono::seconds(10);
};

// Of its loop's thread alone.
class Connection {
 public:
  Connection(EventLoop& loop, int fd, std::shared_ptr<SSL_CTX> tls, const ConnectionOptions& options,
             const Methods& methods, ReceiveBudget& budget, std::function<void()> closed);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int fd() const noexcept { return socket_.fd(); }

  void on_ready(std::uint32_t events);
  // Writes what it can.
  void flush();
  // Tells the peer to open no more streams here; closes when those that are open have ended.
  void go_away();
  // Closes now; calls without an end are cancelled.
  void close();

  // Takes an answer to its stream, if that is still open.
  static void answer(EventLoop& loop, Post&& post);

 private:
  friend struct Callbacks;
  struct SessionFree {
    void operator()(nghttp2_session* session) const noexcept { nghttp2_session_del(session); }
  };

  Stream* open_stream(std::int32_t id);
  Clock::duration round_trip(TimePoint now);
  void on_header(Stream& stream, std::string_view name, std::string_view value);
  void on_head(Stream& stream);
  void on_data(Stream& stream, std::span<const std::uint8_t> data);
  std::size_t take(Stream& stream, std::span<const std::uint8_t> data, const SlabRef& slab);
  void resume(Stream& stream);
  void on_half_close(Stream& stream);
  void on_closed(Stream& stream);
  ssize_t next_data(Stream& stream, std::size_t room, std::uint32_t& flags);
  bool write_data(Stream& stream, const std::uint8_t* head, std::size_t size);

  void check_after(Clock::duration time);
  void check_peer();
  void read();
  Socket::State write();
  void end(Stream& stream, Ending&& ending);
  void cancel(Stream& stream);
  void respond(Stream& stream);
  void append(std::span<const std::uint8_t> bytes);
  void send(wire::Range&& payload);
  void settle();
  void set_dirty();
  void want(std::uint32_t events);

  EventLoop& loop_;
  const std::shared_ptr<SSL_CTX> tls_;
  Socket socket_;
  const ConnectionOptions& options_;
  const Methods& methods_;
  ReceiveBudget& budget_;
  const std::function<void()> closed_;
  std::unique_ptr<nghttp2_session, SessionFree> session_;
  ResetFilter resets_;
  std::list<std::unique_ptr<Stream>> streams_;
  std::deque<wire::Range> out_;  // on their way to the socket
  std::size_t out_bytes_ = 0;
  std::size_t out_offset_ = 0;           // written of the first range
  std::vector<std::int32_t> resumable_;  // streams whose window has room again
  std::function<void()> check_;
  TimePoint check_at_;
  Clock::duration round_trip_{};
  TimePoint round_trip_asked_;
  std::uint32_t events_ = 0;
  bool greeted_ = false;
  bool heard_ = false;  // since the last check
  bool asked_ = false;  // for a sign of life
  bool secured_ = false;
  bool dirty_ = false;
  bool leaving_ = false;
  bool closing_ = false;
};

}  // namespace starling::transport
