// A connection: whatever a peer sends behind its preface, every call ends, nothing of it stays, and what comes back is
// HTTP/2 with whole gRPC messages. The peer may read slowly.
#include <sys/socket.h>
#include <unistd.h>

#include <map>

#include "health.h"
#include "orca_service.h"
#include "targets.h"
#include "transport/connection.h"
#include "transport/event_loop.h"

namespace starling::fuzz {
namespace {

using transport::CallHead;
using transport::Ending;

constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr std::size_t kPiecesMax = 64;  // each costs some calls of the kernel
constexpr int kTurnsMax = 10'000;       // more than the bytes of all answers

wire::Writer writer_of(const std::string& bytes) {
  wire::Writer out;
  out.raw(bytes);
  return out;
}

std::string text_of(const transport::Message& message) {
  std::string out;
  for (const auto span : message.spans()) out.append(reinterpret_cast<const char*>(span.data()), span.size());
  return out;
}

// Answers at once, some messages with a refusal that quotes them.
class Echo final : public transport::Call {
 public:
  explicit Echo(int& alive) : alive_(alive) { ++alive_; }
  ~Echo() override { --alive_; }
  void on_message(transport::Message&& message) override {
    require(!std::exchange(finished_, true), "a unary call with two messages");
    auto text = text_of(message);
    if (text.starts_with('r')) return finish({8, text, text});
    finish(writer_of(text));
  }
  void on_half_close() override { require(false, "a unary call is told of its end"); }
  void on_cancel() override {
    if (!std::exchange(finished_, true)) finish(Ending{});
  }

 private:
  int& alive_;
  bool finished_ = false;
};

// A stream whose messages are answered one by one, when the server finds the time.
class Later final : public transport::Call {
 public:
  static constexpr int kWindow = 2;

  explicit Later(std::vector<Later*>& waiting) : waiting_(waiting) { waiting_.push_back(this); }
  ~Later() override { std::erase(waiting_, this); }
  void on_message(transport::Message&& message) override {
    require(!half_closed_ && !finished_, "a message after the last");
    messages_.push_back(text_of(message));
    require(messages_.size() <= kWindow, "more messages than the window has room for");
  }
  void on_half_close() override { require(!std::exchange(half_closed_, true), "two ends of one call"); }
  void on_cancel() override {
    if (!std::exchange(finished_, true)) finish(Ending{});
  }
  void answer() {
    if (finished_) return;
    if (!messages_.empty()) {
      send(writer_of(messages_.front()));
      messages_.pop_front();
    } else if (half_closed_) {
      finished_ = true;
      finish(Ending{});
    }
  }

 private:
  std::vector<Later*>& waiting_;
  std::deque<std::string> messages_;
  bool half_closed_ = false;
  bool finished_ = false;
};

// What the peer reads.
class Answers {
 public:
  void add(std::string_view bytes) {
    bytes_ += bytes;
    while (bytes_.size() >= 9) {
      const auto size = number(0, 3);
      if (bytes_.size() < 9 + size) return;
      frame(static_cast<std::uint8_t>(bytes_[3]), static_cast<std::uint8_t>(bytes_[4]), number(5, 4),
            std::string_view(bytes_).substr(9, size));
      bytes_.erase(0, 9 + size);
    }
  }

 private:
  struct Answer {
    bool headed = false;
    bool ended = false;
    std::string body;
  };

  std::size_t number(std::size_t at, std::size_t size) const {
    std::size_t out = 0;
    for (std::size_t i = at; i < at + size; ++i) out = out << 8U | static_cast<std::uint8_t>(bytes_[i]);
    return out;
  }

  void frame(std::uint8_t type, std::uint8_t flags, std::size_t stream, std::string_view payload) {
    constexpr std::uint8_t kData = 0;
    constexpr std::uint8_t kHeaders = 1;
    constexpr std::uint8_t kSettings = 4;
    require(std::exchange(greeted_, true) || type == kSettings, "a connection that begins without settings");
    if (type != kData && type != kHeaders) return;
    auto& answer = answers_[stream];
    require(!answer.ended, "an answer goes on behind its end");
    require(type == kHeaders || answer.headed, "an answer without headers");
    answer.headed = true;
    if (type == kData) answer.body += payload;
    if ((flags & 1U) == 0) return;
    answer.ended = true;
    std::string_view left(answer.body);
    while (!left.empty()) {
      require(left.size() >= 5 && left[0] == 0, "an answer with a broken prefix");
      std::size_t size = 0;
      for (std::size_t i = 1; i < 5; ++i) size = size << 8U | static_cast<std::uint8_t>(left[i]);
      require(left.size() >= 5 + size, "an answer that ends inside a message");
      left.remove_prefix(5 + size);
    }
  }

  std::string bytes_;
  bool greeted_ = false;
  std::map<std::size_t, Answer> answers_;
};

struct Server {
  explicit Server(std::uint64_t received_bytes_max) : budget(received_bytes_max) {
    methods.by_name["/echo"] = {[this](CallHead&&) { return std::make_unique<Echo>(alive); }, 0};
    methods.by_name["/later"] = {[this](CallHead&&) { return std::make_unique<Later>(waiting); }, Later::kWindow};
    methods.unknown = {[this](CallHead&&) { return std::make_unique<Echo>(alive); }, 0};
    health.add_methods(methods);
    orca.add_methods(methods);
  }
  // Nothing is left but the memory that it reads to.
  bool idle() const { return alive == 0 && waiting.empty() && budget.taken() % transport::Slab::kBytes == 0; }

  transport::ConnectionOptions options{1 << 12, 4};
  transport::ReceiveBudget budget;
  transport::EventLoop loop{budget};
  predict::Health health{{""}};
  predict::OrcaMeter meter{nullptr};
  predict::OrcaService orca{meter, "node"};
  transport::Methods methods;
  int alive = 0;
  std::vector<Later*> waiting;
};

// The peer's side of one connection, which moves the server's as well.
class Peer {
 public:
  Peer(Server& server, std::size_t pace) : server_(server), pace_(pace) {
    std::array<int, 2> ends;
    require(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends.data()) == 0, "no sockets");
    fd_ = ends[1];
    const int small = 0;  // the least there is, so that answers wait for their reader
    setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof small);
    server.loop.run([this, fd = ends[0]] {
      server_.loop.add(std::make_unique<transport::Connection>(
          server_.loop, fd, nullptr, server_.options, server_.methods, server_.budget, [this] { closed_ = true; }));
    });
  }
  ~Peer() { close(fd_); }
  Peer(const Peer&) = delete;
  Peer& operator=(const Peer&) = delete;

  bool closed() const noexcept { return closed_; }

  void send(std::string_view bytes) const {
    [[maybe_unused]] const auto sent = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
  }
  void leave() const { shutdown(fd_, SHUT_WR); }

  void turn() {
    server_.loop.run([] {});  // never waits
    server_.loop.turn();
    for (auto* call : std::vector(server_.waiting)) call->answer();
    std::array<char, 4096> read;
    const auto got = recv(fd_, read.data(), std::min(read.size(), pace_), 0);
    if (got > 0) answers_.add({read.data(), static_cast<std::size_t>(got)});
  }

 private:
  Server& server_;
  const std::size_t pace_;
  int fd_ = -1;
  bool closed_ = false;
  Answers answers_;
};

}  // namespace

}  // namespace starling::fuzz

// Instead of that in orca.cpp, which would bring models and their engines along.
std::shared_ptr<const std::string> starling::predict::OrcaMeter::report(TimePoint) {
  static const auto busy = std::make_shared<const std::string>("busy");
  return busy;
}

namespace starling::fuzz {

void fuzz_connection(std::size_t step, Bytes bytes) {
  static Server copying(1 << 14);  // no memory to keep what was read where it is
  static Server keeping(1 << 20);
  if (bytes.empty()) return;
  auto& server = bytes[0] % 4 < 2 ? copying : keeping;
  Peer peer(server, 1 + std::size_t{bytes[0]} * 16);
  step = std::max(step, bytes.size() / kPiecesMax);
  peer.send(kPreface);
  for (auto left = bytes.subspan(1); !left.empty() && !peer.closed();) {
    const auto piece = left.first(std::min(step, left.size()));
    peer.send({reinterpret_cast<const char*>(piece.data()), piece.size()});
    peer.turn();
    left = left.subspan(piece.size());
  }
  // Half of the peers wait for what is still to come.
  if (bytes[0] % 2 == 0) {
    for (int i = 0; i < 16 && !peer.closed(); ++i) peer.turn();
  }
  peer.leave();
  for (int i = 0; i < kTurnsMax && !(peer.closed() && server.idle()); ++i) peer.turn();
  require(peer.closed(), "a connection that outlives its peer");
  require(server.idle(), "a call that outlives its connection");
}

}  // namespace starling::fuzz
