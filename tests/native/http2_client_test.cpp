// The caller of the load generators against our own transport, and against a peer that reads nothing.
#include "bench/http2_client.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "transport/grpc_server.h"

namespace starling::bench {
namespace {

using namespace std::chrono_literals;
using transport::CallHead;

struct Seen {
  std::vector<std::string> tenants;
  std::vector<std::chrono::nanoseconds> left;
  std::atomic<int> cancelled{0};
};

class EchoCall final : public transport::Call {
 public:
  void on_message(transport::Message&& message) override {
    wire::Writer out;
    std::string text;
    for (const auto piece : message.spans()) text.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    out.raw(text);
    is_over_ = true;
    finish(std::move(out));
  }
  void on_half_close() override {}
  void on_cancel() override {
    if (!is_over_) finish(transport::Ending{});
  }

 private:
  bool is_over_ = false;
};

// Refuses its message with a text that is percent-encoded on its way.
class RefusingCall final : public transport::Call {
 public:
  void on_message(transport::Message&&) override {
    is_over_ = true;
    finish({14, "100 % \"gone\"", {}});
  }
  void on_half_close() override {}
  void on_cancel() override {
    if (!is_over_) finish(transport::Ending{});
  }

 private:
  bool is_over_ = false;
};

// Never answers until its caller leaves.
class SilentCall final : public transport::Call {
 public:
  explicit SilentCall(Seen& seen) : seen_(seen) {}
  void on_message(transport::Message&&) override {}
  void on_half_close() override {}
  void on_cancel() override {
    ++seen_.cancelled;
    finish(transport::Ending{});
  }

 private:
  Seen& seen_;
};

class Http2ClientTest : public ::testing::Test {
 protected:
  Http2ClientTest() {
    transport::Methods methods;
    methods.by_name["/echo"] = {[this](CallHead&& head) {
                                  seen.tenants.push_back(head.tenant);
                                  seen.left.push_back(head.deadline - starling::Clock::now());
                                  return std::make_unique<EchoCall>();
                                },
                                0};
    methods.by_name["/refuse"] = {[](CallHead&&) { return std::make_unique<RefusingCall>(); }, 0};
    methods.unknown = {[this](CallHead&&) { return std::make_unique<SilentCall>(seen); }, 0};
    transport::GrpcServerOptions options;
    options.address = "127.0.0.1:0";
    options.connection.message_bytes_max = 2 << 20;
    server = std::make_unique<transport::GrpcServer>(options, std::move(methods), nullptr);
  }

  std::unique_ptr<Http2Client> connect(const std::string& method, std::string message) {
    return std::make_unique<Http2Client>(
        "127.0.0.1:" + std::to_string(server->port()), method, std::move(message),
        [this](std::size_t call, const Reply& reply) { EXPECT_TRUE(replies.emplace(call, reply).second); });
  }

  // Waits until so many calls have ended.
  bool finish(Http2Client& client, std::size_t count) {
    const auto until = Clock::now() + 20s;
    while (replies.size() < count && Clock::now() < until) client.turn(until);
    return replies.size() == count;
  }

  Seen seen;
  std::unique_ptr<transport::GrpcServer> server;
  std::map<std::size_t, Reply> replies;
};

TEST_F(Http2ClientTest, SendsMessagesWithWhatIsTheirOwn) {
  for (const std::size_t size : {0U, 5U, 5'000U, 1'500'000U}) {
    replies.clear();
    const auto client = connect("/echo", std::string(size, 'm'));
    client->start(0, {});
    client->start(1, {}, "extra");
    ASSERT_TRUE(finish(*client, 2));
    EXPECT_EQ(replies.at(0).code, 0);
    EXPECT_EQ(replies.at(0).bytes, 5 + size);
    EXPECT_EQ(replies.at(1).code, 0);
    EXPECT_EQ(replies.at(1).bytes, 5 + size + 5);
  }
}

TEST_F(Http2ClientTest, ManyLargeMessagesCrossTheWindowsOfTheServer) {
  const auto client = connect("/echo", std::string(1'500'000, 'm'));
  for (std::size_t call = 0; call < 40; ++call) client->start(call, {});
  ASSERT_TRUE(finish(*client, 40));
  for (const auto& [call, reply] : replies) EXPECT_EQ(reply.code, 0) << call << ": " << reply.message;
}

TEST_F(Http2ClientTest, HeadersOfACallAreItsOwn) {
  const auto client = connect("/echo", "m");
  const auto timeout = grpc_timeout(60s);
  const std::array<nghttp2_nv, 2> first{header("grpc-timeout", timeout, true), header("x-tenant", "7")};
  client->start(0, first);
  client->start(1, {});
  ASSERT_TRUE(finish(*client, 2));
  EXPECT_EQ(seen.tenants, (std::vector<std::string>{"7", ""}));
  EXPECT_LE(seen.left[0], 60s);
  EXPECT_GT(seen.left[1], 24h);
}

TEST_F(Http2ClientTest, ARefusalHasItsCodeAndText) {
  const auto client = connect("/refuse", "m");
  client->start(0, {});
  ASSERT_TRUE(finish(*client, 1));
  EXPECT_EQ(replies.at(0).code, 14);
  EXPECT_EQ(replies.at(0).message, "100 % \"gone\"");
}

TEST_F(Http2ClientTest, AnAnswerBeforeTheEndOfItsRequestEndsTheCall) {
  const auto client = connect("/echo", std::string(3 << 20, 'm'));
  client->start(0, {});
  ASSERT_TRUE(finish(*client, 1));
  EXPECT_EQ(replies.at(0).code, 8);
}

TEST_F(Http2ClientTest, ACancelledCallIsToldToTheServerAndToNobodyElse) {
  const auto client = connect("/silent", "m");
  auto* call = client->start(0, {});
  client->flush();
  client->cancel(*call);
  const auto until = Clock::now() + 20s;
  while (seen.cancelled == 0 && Clock::now() < until) client->turn(Clock::now() + 1ms);
  EXPECT_EQ(seen.cancelled, 1);
  client->cancel(*client->start(1, {}));  // before anything of it was sent
  const auto other = connect("/echo", "m");
  other->start(2, {});
  ASSERT_TRUE(finish(*other, 1));
  client->turn(Clock::now());
  EXPECT_FALSE(replies.contains(0));
  EXPECT_FALSE(replies.contains(1));
}

TEST_F(Http2ClientTest, ACallMayFollowFromTheEndOfAnother) {
  std::size_t ended = 0;
  std::unique_ptr<Http2Client> client;
  client = std::make_unique<Http2Client>("127.0.0.1:" + std::to_string(server->port()), "/echo", "m",
                                         [&](std::size_t call, const Reply& reply) {
                                           EXPECT_EQ(reply.code, 0);
                                           if (++ended < 100) client->start(call, {});
                                         });
  client->start(0, {});
  const auto until = Clock::now() + 20s;
  while (ended < 100 && Clock::now() < until) client->turn(until);
  EXPECT_EQ(ended, 100);
}

TEST_F(Http2ClientTest, AServerThatGoesIsNoSilence) {
  const auto client = connect("/silent", "m");
  client->start(0, {});
  client->flush();
  server->stop(starling::Clock::now());
  const auto until = Clock::now() + 20s;
  EXPECT_THROW(while (Clock::now() < until) client->turn(until), std::runtime_error);
}

// Greets, and reads nothing.
TEST(Http2ClientAlone, APeerThatDoesNotReadKeepsNobodyWaiting) {
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(listen(listener, 1), 0);
  ASSERT_EQ(getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size), 0);
  const auto target = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  int peer = -1;
  std::jthread greeter([&] {
    peer = accept(listener, nullptr, nullptr);
    // Settings with the largest windows, so that only the socket holds anything back.
    constexpr std::string_view kGreeting("\0\0\6\4\0\0\0\0\0\0\4\x7f\xff\xff\xff\0\0\4\x8\0\0\0\0\0\x7f\xff\0\0", 28);
    EXPECT_EQ(send(peer, kGreeting.data(), kGreeting.size(), 0), static_cast<ssize_t>(kGreeting.size()));
  });
  std::vector<std::size_t> ended;
  Http2Client client(target, "/any", std::string(4 << 20, 'm'),
                     [&](std::size_t call, const Reply&) { ended.push_back(call); });
  greeter.join();
  std::vector<Http2Client::Stream*> calls;
  for (std::size_t call = 0; call < 16; ++call) {
    calls.push_back(client.start(call, {}));
    client.turn(Clock::now());
  }
  for (auto* call : calls) client.cancel(*call);
  client.turn(Clock::now() + 1ms);
  // A reset of the peer's is heard although nothing more can be written.
  constexpr std::string_view kGoAway("\0\0\x8\7\0\0\0\0\0\0\0\0\0\0\0\0\0", 17);
  EXPECT_EQ(send(peer, kGoAway.data(), kGoAway.size(), 0), static_cast<ssize_t>(kGoAway.size()));
  EXPECT_TRUE(client.turn(Clock::now() + 20s) || client.turn(Clock::now() + 20s));
  EXPECT_TRUE(ended.empty());
  close(peer);
  close(listener);
}

TEST(Http2ClientAlone, SaysWhyThereIsNoServer) {
  const auto connect = [](const std::string& target) { Http2Client client(target, "/any", "m", nullptr); };
  EXPECT_THROW(connect("nowhere"), std::runtime_error);
  EXPECT_THROW(connect("127.0.0.1:1"), std::runtime_error);
  EXPECT_THROW(connect("127.0.0.1:none"), std::runtime_error);
}

TEST(GrpcTimeout, IsOfTheFinestUnitThatHoldsItInEightDigits) {
  EXPECT_EQ(grpc_timeout(99'873us), "99873u");
  EXPECT_EQ(grpc_timeout(99'872'001ns), "99873u");
  EXPECT_EQ(grpc_timeout(1ns), "1u");
  EXPECT_EQ(grpc_timeout(99'999'999us), "99999999u");
  EXPECT_EQ(grpc_timeout(100'000'000us), "100000m");
  EXPECT_EQ(grpc_timeout(100'000'001us), "100001m");
  EXPECT_EQ(grpc_timeout(100'000s), "100000S");
  EXPECT_EQ(grpc_timeout(100'000'000s), "1666667M");
}

}  // namespace
}  // namespace starling::bench
