// A gRPC server over HTTP/2: listeners, event loops, their connections.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "connection.h"
#include "event_loop.h"
#include "tls.h"

namespace starling::transport {

struct GrpcServerOptions {
  std::string address;  // host:port; port 0 picks a free one
  ConnectionOptions connection;
  std::size_t connections_max = 16'384;
  std::uint64_t received_bytes_max = std::uint64_t{1} << 30;  // of messages, and of the memory that they keep
  int threads = 1;
};

// Thread-safe, but for stop().
class GrpcServer {
 public:
  // Binds at once and serves; throws Error(kInvalidConfig) when it cannot. tls: null for plain text; outlives this.
  GrpcServer(const GrpcServerOptions& options, Methods methods, const Tls* tls);
  ~GrpcServer();
  GrpcServer(const GrpcServer&) = delete;
  GrpcServer& operator=(const GrpcServer&) = delete;

  int port() const noexcept { return port_; }

  // Accepts no more, tells peers to go elsewhere, closes each connection once its answers are written or at `until`,
  // and waits until every call has ended.
  void stop(TimePoint until);

 private:
  struct Listener {
    int fd = -1;
    std::function<void()> ready;
    std::function<void()> rested;  // after the process had no descriptor left
    TimePoint rests_until;
  };

  void listen(const std::string& address);
  void accept(Listener& listener);
  void adopt(EventLoop& loop, int fd);

  const GrpcServerOptions options_;
  const Methods methods_;
  const Tls* const tls_;
  ReceiveBudget budget_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::unique_ptr<EventLoop>> loops_;
  std::atomic<std::size_t> connections_{0};
  std::size_t next_loop_ = 0;  // of the first loop's thread
  int port_ = 0;
};

}  // namespace starling::transport
