#include "grpc_server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <future>

#include "status.h"

namespace starling::transport {
namespace {

constexpr int kBacklog = 1024;
constexpr int kAcceptsMax = 64;  // in a row, before connections have their turn
constexpr std::chrono::milliseconds kRest{100};

struct AddressFree {
  void operator()(addrinfo* info) const noexcept { freeaddrinfo(info); }
};

int open_listener(const addrinfo& at, int port) {
  const int fd = socket(at.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const int on = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_storage address{};
  std::memcpy(&address, at.ai_addr, at.ai_addrlen);
  if (at.ai_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6&>(address).sin6_port = htons(static_cast<std::uint16_t>(port));
  } else {
    reinterpret_cast<sockaddr_in&>(address).sin_port = htons(static_cast<std::uint16_t>(port));
  }
  // A taken port is an error, not a second listener that takes half of the connections: no SO_REUSEPORT.
  if (bind(fd, reinterpret_cast<sockaddr*>(&address), at.ai_addrlen) == 0 && ::listen(fd, kBacklog) == 0) return fd;
  close(fd);
  return -1;
}

int port_of(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

// Runs on a loop's thread and waits for it.
void run_and_wait(EventLoop& loop, const std::function<void()>& task) {
  std::promise<void> done;
  loop.run([&] {
    task();
    done.set_value();
  });
  done.get_future().wait();
}

}  // namespace

GrpcServer::GrpcServer(const GrpcServerOptions& options, Methods methods, const Tls* tls)
    : options_(options), methods_(std::move(methods)), tls_(tls), budget_(options.received_bytes_max) {
  listen(options_.address);
  for (int i = 0; i < std::max(1, options_.threads); ++i) {
    loops_.push_back(std::make_unique<EventLoop>(budget_, "starling-io-" + std::to_string(i)));
  }
  auto& first = *loops_.front();
  for (auto& listener : listeners_) {
    listener->ready = [this, one = listener.get()] { accept(*one); };
    first.run([&first, one = listener.get()] { first.watch(one->fd, &one->ready); });
  }
}

GrpcServer::~GrpcServer() { stop(Clock::now()); }

void GrpcServer::listen(const std::string& address) {
  const auto colon = address.rfind(':');
  auto host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const auto port = colon == std::string::npos ? std::string() : address.substr(colon + 1);
  const int failed = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  const std::unique_ptr<addrinfo, AddressFree> owner(found);
  port_ = failed == 0 ? std::atoi(port.c_str()) : 0;
  for (auto* at = found; failed == 0 && at != nullptr; at = at->ai_next) {
    const int fd = open_listener(*at, port_);
    if (fd < 0) continue;
    port_ = port_of(fd);
    listeners_.push_back(std::make_unique<Listener>(Listener{fd, {}, {}, {}}));
  }
  if (listeners_.empty()) {
    throw Error(Reason::kInvalidConfig, "address " + address +
                                            " can not be bound: the port is taken or the host is not this machine's; "
                                            "choose another with --grpc, port 0 picks a free one");
  }
}

void GrpcServer::accept(Listener& listener) {
  auto& first = *loops_.front();
  for (int i = 0; i < kAcceptsMax; ++i) {
    const int fd = accept4(listener.fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return;
      // No descriptor or memory left: the caller waits in the backlog until something is closed.
      first.unwatch(listener.fd);
      listener.rested = [&first, &listener] { first.watch(listener.fd, &listener.ready); };
      listener.rests_until = Clock::now() + kRest;
      first.add_timer({listener.rests_until, &listener.rested});
      return;
    }
    if (connections_.load(std::memory_order_relaxed) >= options_.connections_max) {
      close(fd);
      continue;
    }
    connections_.fetch_add(1, std::memory_order_relaxed);
    auto& loop = *loops_[next_loop_++ % loops_.size()];
    if (&loop == &first) {
      adopt(loop, fd);
    } else {
      loop.run([this, &loop, fd] { adopt(loop, fd); });
    }
  }
}

void GrpcServer::adopt(EventLoop& loop, int fd) {
  loop.add(std::make_unique<Connection>(loop, fd, tls_ ? tls_->context() : nullptr, options_.connection, methods_,
                                        budget_, [this] { connections_.fetch_sub(1, std::memory_order_relaxed); }));
}

void GrpcServer::stop(TimePoint until) {
  if (loops_.empty()) return;
  auto& first = *loops_.front();
  run_and_wait(first, [&] {
    for (auto& listener : listeners_) {
      first.unwatch(listener->fd);
      first.remove_timer({listener->rests_until, &listener->rested});
      close(listener->fd);
    }
  });
  for (auto& loop : loops_) loop->stop(until);
  loops_.clear();
  listeners_.clear();
}

}  // namespace starling::transport
