// Peers that are gone and do not say so: nothing of them comes, and the kernel knows no better.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "grpc_caller.h"
#include "transport/event_loop.h"

namespace starling::transport {
namespace {

using namespace std::chrono_literals;
using starling::testing::Caller;
using starling::testing::connect_to;
using starling::testing::framed;

struct Seen {
  int messages = 0;
  int cancelled = 0;
  int deleted = 0;
};

// Keeps its messages until its caller leaves.
class KeepingCall : public Call {
 public:
  explicit KeepingCall(Seen& seen) : seen_(seen) {}
  ~KeepingCall() override { ++seen_.deleted; }
  void on_message(Message&& message) override {
    ++seen_.messages;
    kept_.push_back(std::move(message));
  }
  void on_half_close() override {}
  void on_cancel() override {
    ++seen_.cancelled;
    finish(Ending{});
  }

 protected:
  Seen& seen_;

 private:
  std::vector<Message> kept_;
};

// Answers its message with the same bytes and some more.
class EchoCall final : public KeepingCall {
 public:
  EchoCall(Seen& seen, std::size_t more) : KeepingCall(seen), more_(more) {}
  void on_message(Message&& message) override {
    ++seen_.messages;
    answered_ = true;
    wire::Writer out;
    for (const auto piece : message.spans()) out.raw({reinterpret_cast<const char*>(piece.data()), piece.size()});
    out.raw(std::string(more_, 'x'));
    finish(std::move(out));
  }
  void on_cancel() override {
    if (!answered_) KeepingCall::on_cancel();
  }

 private:
  const std::size_t more_;
  bool answered_ = false;
};

// A listener of loopback.
class Door {
 public:
  Door() : fd_(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    auto* any = reinterpret_cast<sockaddr*>(&address_);
    address_.sin_family = AF_INET;
    address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address_;
    EXPECT_EQ(bind(fd_, any, size), 0);
    EXPECT_EQ(listen(fd_, 8), 0);
    EXPECT_EQ(getsockname(fd_, any, &size), 0);
  }
  ~Door() { close(fd_); }
  Door(const Door&) = delete;
  Door& operator=(const Door&) = delete;

  int port() const { return ntohs(address_.sin_port); }
  int let_in() { return accept4(fd_, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC); }

 private:
  const int fd_;
  sockaddr_in address_{};
};

// One connection whose loop the test turns while it is the peer as well: nobody is silent because the machine is busy.
class Silence : public ::testing::Test {
 protected:
  static constexpr std::size_t kLarge = 24'000'000;  // far more than sockets hold

  Silence() {
    methods_.by_name["/echo"] = {[this](CallHead&&) { return std::make_unique<EchoCall>(seen, 0); }, 0};
    methods_.by_name["/large"] = {[this](CallHead&&) { return std::make_unique<EchoCall>(seen, kLarge); }, 0};
    methods_.by_name["/stream"] = {[this](CallHead&&) { return std::make_unique<KeepingCall>(seen); }, 4};
    methods_.unknown = {[this](CallHead&&) { return std::make_unique<KeepingCall>(seen); }, 0};
    options_.silence_max = 200ms;
  }

  // The server's end of who just connected.
  void greet() {
    loop.add(std::make_unique<Connection>(loop, door.let_in(), nullptr, options_, methods_, budget,
                                          [this] { left = true; }));
  }

  // Serves, and lets the caller read and write, until something holds.
  bool serve(Caller& caller, const std::function<bool()>& holds) {
    return caller.wait([&] {
      turn();
      return holds();
    });
  }

  // Serves while the caller does nothing.
  bool serve_alone(const std::function<bool()>& holds) {
    const auto until = Clock::now() + 20s;
    while (!holds() && Clock::now() < until) turn();
    return holds();
  }

  Seen seen;
  ReceiveBudget budget{64 << 20};
  Door door;
  bool left = false;

 private:
  // Returns after 20 ms at the latest.
  void turn() {
    const EventLoop::Timer timer{Clock::now() + 20ms, &nothing_};
    loop.add_timer(timer);
    loop.turn();
    loop.remove_timer(timer);
  }

  ConnectionOptions options_;
  Methods methods_;
  std::function<void()> nothing_ = [] {};

 protected:
  EventLoop loop{budget};  // last: ends what is left of calls
};

enum class Fate : std::uint8_t { kHangs, kLosesPower };

class SilentPeer : public Silence, public ::testing::WithParamInterface<Fate> {
 protected:
  static void fall_silent(Caller& caller) {
    if (GetParam() == Fate::kLosesPower) caller.vanish();
  }
};

INSTANTIATE_TEST_SUITE_P(Peers, SilentPeer, ::testing::Values(Fate::kHangs, Fate::kLosesPower),
                         [](const auto& of) { return of.param == Fate::kHangs ? "Hangs" : "LosesPower"; });

TEST_P(SilentPeer, AnIdlePeerIsAskedOnceAndLeft) {
  Caller caller(door.port());
  greet();
  const auto id = caller.start("/echo", framed("x"));
  ASSERT_TRUE(serve(caller, [&] { return caller.reply(id).closed; }));
  const int asked = caller.pings();
  fall_silent(caller);
  EXPECT_TRUE(serve_alone([&] { return left; }));
  if (GetParam() == Fate::kLosesPower) return;
  EXPECT_FALSE(caller.wait([] { return false; })) << "the connection is still there";
  EXPECT_EQ(caller.pings() - asked, 1);
}

TEST_P(SilentPeer, ItsCallsAreCancelledOnceAndTheirMemoryIsFree) {
  Caller caller(door.port());
  greet();
  for (int i = 0; i < 3; ++i) caller.start("/unary", framed("m"));
  caller.start("/stream", "", false);                                                      // nothing in flight
  caller.start("/stream", framed(std::string(2'000'000, 'x')), false);                     // kept
  caller.start("/echo", framed(std::string(6'000'000, 'x')).substr(0, 3'000'000), false);  // half of a message
  ASSERT_TRUE(serve(caller, [&] { return seen.messages == 4 && budget.taken() > 5'000'000; }));
  fall_silent(caller);
  EXPECT_TRUE(serve_alone([&] { return left && seen.deleted == 6; }));
  EXPECT_EQ(seen.cancelled, 6);
  EXPECT_LE(budget.taken(), 8 * Slab::kBytes) << "more than what the loop reads into";
}

TEST_P(SilentPeer, AnAnswerThatNobodyTakesDoesNotKeepItsConnection) {
  Caller caller(door.port(), 1 << 30);
  caller.widen(0, 1 << 30);
  greet();
  caller.start("/large", framed("x"));
  ASSERT_TRUE(serve(caller, [&] { return seen.messages == 1; }));
  fall_silent(caller);
  EXPECT_TRUE(serve_alone([&] { return left; }));
  EXPECT_EQ(seen.deleted, 1);
}

TEST_F(Silence, APeerThatAnswersStays) {
  Caller caller(door.port());
  greet();
  const auto idle = caller.start("/stream", "", false);
  ASSERT_TRUE(serve(caller, [&] { return caller.pings() >= 6; }));
  EXPECT_FALSE(left);
  EXPECT_FALSE(caller.reply(idle).closed);
  const auto id = caller.start("/echo", framed("x"));
  ASSERT_TRUE(serve(caller, [&] { return caller.reply(id).closed; }));
  EXPECT_EQ(caller.reply(id).messages(), std::vector<std::string>{"x"});
  EXPECT_EQ(seen.cancelled, 0);
}

TEST(TransportSocket, DrainsWhileItsPeerTakesWhatWasSent) {
  Door door;
  const int peer = connect_to(door.port());
  Socket socket(door.let_in(), nullptr);
  EXPECT_FALSE(socket.is_draining(1h)) << "nothing was sent";
  const std::vector<std::uint8_t> bytes(1 << 20);
  const std::span<const std::uint8_t> piece(bytes);
  std::size_t sent = 0;
  std::size_t size = 0;
  while (socket.write({&piece, 1}, size) == Socket::State::kDone) sent += size;
  EXPECT_TRUE(socket.is_draining(1h));
  EXPECT_FALSE(socket.is_draining(0s));
  std::vector<std::uint8_t> taken(sent);
  ASSERT_EQ(recv(peer, taken.data(), sent, MSG_WAITALL), static_cast<ssize_t>(sent));
  EXPECT_TRUE(starling::testing::eventually([&] { return !socket.is_draining(1h); })) << "all is there";
  close(peer);
}

}  // namespace
}  // namespace starling::transport
