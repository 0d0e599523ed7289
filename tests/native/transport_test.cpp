// The transport over real sockets of loopback, driven by nghttp2's own client side and by hand-made bytes.
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <array>
#include <atomic>
#include <mutex>
#include <thread>

#include "grpc_caller.h"
#include "transport/grpc_server.h"
#include "transport/metadata.h"
#include "transport/reset_filter.h"

namespace starling::transport {
namespace {

using namespace std::chrono_literals;
using starling::testing::Caller;
using starling::testing::connect_to;
using starling::testing::eventually;
using starling::testing::framed;

constexpr std::uint64_t kMessageMax = 8 << 20;

std::string text_of(const Message& message) {
  std::string out;
  for (const auto piece : message.spans()) out.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  return out;
}

wire::Writer writer_of(const std::string& bytes) {
  wire::Writer out;
  out.raw(bytes);
  return out;
}

// What calls of the test's server have seen.
struct Seen {
  std::atomic<int> messages{0};
  std::atomic<int> cancelled{0};
  std::atomic<int> deleted{0};
  std::atomic<std::uint64_t> copied{0};  // bytes of messages outside of the memory that they were read into
};

// Answers with its message: at once, or from a thread of its own.
class EchoCall final : public Call {
 public:
  EchoCall(Seen& seen, bool elsewhere) : seen_(seen), elsewhere_(elsewhere) {}
  ~EchoCall() override {
    if (thread_.joinable()) thread_.join();
    ++seen_.deleted;
  }
  void on_message(Message&& message) override {
    started_ = true;
    ++seen_.messages;
    auto text = text_of(message);
    if (text == "refuse") return finish({8, "not now: 100 %\n", std::string("\0\x01\xff", 3)});
    if (text == "load") return finish(writer_of(text), {0, {}, {}, std::make_shared<const std::string>("busy")});
    if (!elsewhere_) return finish(writer_of(text));
    thread_ = std::thread([this, text = std::move(text)] { finish(writer_of(text)); });
  }
  void on_half_close() override {}
  void on_cancel() override {
    ++seen_.cancelled;
    if (!started_) finish(Ending{});
  }

 private:
  Seen& seen_;
  const bool elsewhere_;
  bool started_ = false;
  std::thread thread_;
};

// Answers each message of a stream with it, ends when the caller does.
class EchoStream final : public Call {
 public:
  explicit EchoStream(Seen& seen) : seen_(seen) {}
  ~EchoStream() override { ++seen_.deleted; }
  void on_message(Message&& message) override {
    ++seen_.messages;
    send(writer_of(text_of(message)));
  }
  void on_half_close() override {
    finished_ = true;
    finish(Ending{});
  }
  void on_cancel() override {
    ++seen_.cancelled;
    if (!finished_) finish(Ending{});
  }

 private:
  Seen& seen_;
  bool finished_ = false;
};

// Keeps the messages of a stream until the caller says that there are no more, then answers all of them.
class KeepingStream final : public Call {
 public:
  explicit KeepingStream(Seen& seen) : seen_(seen) {}
  ~KeepingStream() override { ++seen_.deleted; }
  void on_message(Message&& message) override {
    ++seen_.messages;
    seen_.copied += message.copied();
    kept_.push_back(std::move(message));
  }
  void on_half_close() override {
    for (const auto& message : kept_) send(writer_of(text_of(message)));
    finished_ = true;
    finish(Ending{});
  }
  void on_cancel() override {
    if (!finished_) finish(Ending{});
  }

 private:
  Seen& seen_;
  std::vector<Message> kept_;
  bool finished_ = false;
};

// Never answers until its caller leaves.
class SilentCall final : public Call {
 public:
  explicit SilentCall(Seen& seen) : seen_(seen) {}
  ~SilentCall() override { ++seen_.deleted; }
  void on_message(Message&&) override { ++seen_.messages; }
  void on_half_close() override {}
  void on_cancel() override {
    ++seen_.cancelled;
    finish(Ending{});
  }

 private:
  Seen& seen_;
};

class Transport : public ::testing::Test {
 protected:
  void start(int threads = 1, std::uint64_t received_bytes_max = 64 << 20) {
    Methods methods;
    methods.by_name["/echo/here"] = {[this](CallHead&&) { return std::make_unique<EchoCall>(seen, false); }, 0};
    methods.by_name["/echo/elsewhere"] = {[this](CallHead&&) { return std::make_unique<EchoCall>(seen, true); }, 0};
    methods.by_name["/echo/stream"] = {[this](CallHead&&) { return std::make_unique<EchoStream>(seen); }, 4};
    methods.by_name["/keep/stream"] = {[this](CallHead&&) { return std::make_unique<KeepingStream>(seen); }, 1000};
    methods.by_name["/silent/stream"] = {[this](CallHead&&) { return std::make_unique<SilentCall>(seen); }, 2};
    methods.unknown = {[this](CallHead&&) { return std::make_unique<SilentCall>(seen); }, 0};
    GrpcServerOptions options;
    options.address = "127.0.0.1:0";
    options.connection.message_bytes_max = kMessageMax;
    options.received_bytes_max = received_bytes_max;
    options.threads = threads;
    server = std::make_unique<GrpcServer>(options, std::move(methods), nullptr);
  }

  Seen seen;
  std::unique_ptr<GrpcServer> server;
};

TEST_F(Transport, AnswersAMessageWithAMessageAndAStatus) {
  start();
  Caller caller(server->port());
  const auto& reply = caller.finish(caller.start("/echo/here", framed("hello")));
  EXPECT_EQ(reply.headers.at(":status"), "200");
  EXPECT_EQ(reply.headers.at("grpc-status"), "0");
  EXPECT_EQ(reply.messages(), std::vector<std::string>{"hello"});
}

TEST_F(Transport, AnEmptyMessageIsAMessage) {
  start();
  Caller caller(server->port());
  EXPECT_EQ(caller.finish(caller.start("/echo/here", framed(""))).messages(), std::vector<std::string>{""});
}

TEST_F(Transport, ARefusalHasItsTextAndDetails) {
  start();
  Caller caller(server->port());
  const auto& reply = caller.finish(caller.start("/echo/here", framed("refuse")));
  EXPECT_EQ(reply.headers.at("grpc-status"), "8");
  EXPECT_EQ(reply.headers.at("grpc-message"), "not now: 100 %25%0A");
  EXPECT_EQ(reply.headers.at("grpc-status-details-bin"), "AAH/");
  EXPECT_TRUE(reply.body.empty());
}

TEST_F(Transport, AnAnswerMaySayHowBusyItsServerIs) {
  start();
  Caller caller(server->port());
  const auto& loaded = caller.finish(caller.start("/echo/here", framed("load")));
  EXPECT_EQ(loaded.headers.at("endpoint-load-metrics-bin"), "YnVzeQ");
  EXPECT_EQ(loaded.headers.at("grpc-status"), "0");
  EXPECT_FALSE(caller.finish(caller.start("/echo/here", framed("x"))).headers.contains("endpoint-load-metrics-bin"));
}

TEST_F(Transport, LargeMessagesCrossWindowsBothWays) {
  start();
  Caller caller(server->port(), 70'000);
  std::string large(5'000'000, 'x');
  for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * 7 + i / 251);
  EXPECT_EQ(caller.finish(caller.start("/echo/elsewhere", framed(large))).messages(), std::vector{large});
}

// Patterns that differ, of sizes from nothing to many reads.
std::vector<std::string> patterns(int count) {
  std::vector<std::string> out;
  for (int i = 0; i < count; ++i) {
    std::string text(static_cast<std::size_t>(i % 7 == 0 ? i * 4001 : i * 13 % 3000), '\0');
    for (std::size_t at = 0; at < text.size(); ++at) text[at] = static_cast<char>(at * 31 + at / 253 + i);
    out.push_back(std::move(text));
  }
  return out;
}

std::string framed_all(const std::vector<std::string>& messages) {
  std::string out;
  for (const auto& message : messages) out += framed(message);
  return out;
}

TEST_F(Transport, KeptMessagesStayWhatTheyWereWhileOthersCome) {
  start();
  const auto sent = patterns(200);
  Caller keeping(server->port());
  const auto kept = keeping.start("/keep/stream", framed_all(sent), false);
  ASSERT_TRUE(keeping.wait([&] { return seen.messages == 200; }));
  Caller caller(server->port());
  for (const auto& text : patterns(60)) {
    EXPECT_EQ(caller.finish(caller.start("/echo/here", framed(text))).messages(), std::vector{text});
  }
  keeping.end(kept);
  EXPECT_TRUE(keeping.finish(kept).messages() == sent);
  std::uint64_t bytes = 0;
  for (const auto& text : sent) bytes += text.size();
  EXPECT_LT(seen.copied, bytes / 20) << "more than what lies at the edges of reads";
}

TEST_F(Transport, MessagesAreCopiedWhenNoMemoryCanBeKeptForThem) {
  start(1, 200 << 10);  // less than one slab
  Caller caller(server->port());
  for (const auto& text : patterns(40)) {
    EXPECT_EQ(caller.finish(caller.start("/echo/here", framed(text))).messages(), std::vector{text});
  }
  const auto kept = patterns(20);
  EXPECT_TRUE(caller.finish(caller.start("/keep/stream", framed_all(kept))).messages() == kept);
  std::uint64_t bytes = 0;
  for (const auto& text : kept) bytes += text.size();
  EXPECT_EQ(seen.copied, bytes);
}

TEST_F(Transport, KeptMessagesUseUpTheBudgetAndGiveItBack) {
  start(1, 4 << 20);
  Caller keeping(server->port());
  const std::string large(700'000, 'x');
  const auto kept = keeping.start("/keep/stream", framed_all(std::vector(7, large)));
  EXPECT_EQ(keeping.finish(kept).headers.at("grpc-status"), "8");
  ASSERT_TRUE(eventually([&] { return seen.deleted == 1; }));
  EXPECT_EQ(keeping.finish(keeping.start("/keep/stream", framed_all({large}))).headers.at("grpc-status"), "0");
}

TEST_F(Transport, ManyCallsOfManyConnectionsAreAnsweredFromOtherThreads) {
  start(2);
  std::vector<std::thread> threads;
  std::atomic<int> answered{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Caller caller(server->port());
      std::vector<std::pair<std::int32_t, std::string>> calls;
      for (int i = 0; i < 100; ++i) {
        const auto text = std::to_string(t * 1000 + i);
        calls.emplace_back(caller.start("/echo/elsewhere", framed(text)), text);
      }
      for (const auto& [id, text] : calls) answered += caller.finish(id).messages() == std::vector{text};
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(answered, 400);
}

TEST_F(Transport, AStreamIsAnsweredInOrderThroughASmallWindow) {
  start();
  Caller caller(server->port());
  std::string body;
  std::vector<std::string> sent;
  for (int i = 0; i < 500; ++i) {
    sent.push_back(std::string(static_cast<std::size_t>(i % 50) * 40, 'a') + std::to_string(i));
    body += framed(sent.back());
  }
  const auto& reply = caller.finish(caller.start("/echo/stream", body));
  EXPECT_EQ(reply.messages(), sent);
  EXPECT_EQ(reply.headers.at("grpc-status"), "0");
}

TEST_F(Transport, NoMoreThanItsWindowIsDelivered) {
  start();
  Caller caller(server->port());
  std::string body;
  for (int i = 0; i < 10; ++i) body += framed("m");
  const auto stuck = caller.start("/silent/stream", body);
  // Another stream of the connection goes on; when it has been answered, all data of the first one has been read.
  caller.finish(caller.start("/echo/here", framed("x")));
  EXPECT_EQ(seen.messages, 2 + 1);
  caller.reset(stuck);
  EXPECT_TRUE(eventually([&] { return seen.cancelled == 1 && seen.deleted == 2; }));
}

TEST_F(Transport, ACallerThatLeavesCancelsItsCalls) {
  start();
  {
    Caller caller(server->port());
    for (int i = 0; i < 20; ++i) caller.start("/silent/stream", framed("m"), false);
    EXPECT_TRUE(eventually([&] { return seen.messages == 20; }));
  }
  EXPECT_TRUE(eventually([&] { return seen.cancelled == 20 && seen.deleted == 20; }));
}

TEST_F(Transport, ACallThatIsResetWhileItIsAnsweredElsewhereHarmsNobody) {
  start(2);
  Caller caller(server->port());
  for (int i = 0; i < 300; ++i) caller.reset(caller.start("/echo/elsewhere", framed("m")));
  EXPECT_EQ(caller.finish(caller.start("/echo/here", framed("still here"))).messages().size(), 1U);
  server->stop(Clock::now() + 1s);
  EXPECT_LE(seen.deleted, 301);
}

TEST_F(Transport, AMessageThatIsTooLargeIsRefusedByItsPrefix) {
  start();
  Caller caller(server->port());
  const auto prefix = std::string("\0\x7f\xff\xff\xff", 5);
  const auto& reply = caller.finish(caller.start("/echo/here", prefix, false));
  EXPECT_EQ(reply.headers.at("grpc-status"), "8");
  EXPECT_NE(reply.headers.at("grpc-message").find("at most 8388608"), std::string::npos);
  EXPECT_EQ(caller.finish(caller.start("/echo/here", framed("next"))).messages().size(), 1U);
}

TEST_F(Transport, MemoryForMessagesThatNeverEndIsBounded) {
  start(1, 3 << 20);
  Caller caller(server->port());
  const auto part = framed(std::string(2'000'000, 'x')).substr(0, 1'500'000);
  std::vector<std::int32_t> calls;
  for (int i = 0; i < 3; ++i) calls.push_back(caller.start("/echo/here", part, false));
  EXPECT_TRUE(caller.wait(
      [&] { return std::any_of(calls.begin(), calls.end(), [&](auto id) { return caller.reply(id).closed; }); }));
  for (const auto id : calls) {
    if (caller.reply(id).closed) {
      EXPECT_EQ(caller.reply(id).headers.at("grpc-status"), "8");
    } else {
      caller.reset(id);
    }
  }
  EXPECT_EQ(caller.finish(caller.start("/echo/here", framed("small"))).messages().size(), 1U);
}

TEST_F(Transport, CompressedMessagesAreRead) {
  start();
  Caller caller(server->port());
  const std::string text(100'000, 'z');
  std::string packed(compressBound(text.size()), '\0');
  uLongf size = packed.size();
  ASSERT_EQ(compress(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>(text.data()),
                     text.size()),
            Z_OK);
  packed.resize(size);
  const Caller::Headers deflate{{"grpc-encoding", "deflate"}};
  EXPECT_EQ(caller.finish(caller.start("/echo/here", framed(packed, 1), true, deflate)).messages(), std::vector{text});
  EXPECT_EQ(caller.finish(caller.start("/echo/here", framed(text), true, deflate)).messages(), std::vector{text});
  for (const auto& bad :
       {packed.substr(0, packed.size() / 2), packed + "more", std::string("no zlib"), std::string()}) {
    const auto& reply = caller.finish(caller.start("/echo/here", framed(bad, 1), true, deflate));
    EXPECT_EQ(reply.headers.at("grpc-status"), "13");
  }
}

TEST_F(Transport, ABombIsRefused) {
  start();
  Caller caller(server->port());
  const std::string text(kMessageMax + 4'000'000, '\0');
  std::string packed(compressBound(text.size()), '\0');
  uLongf size = packed.size();
  compress(reinterpret_cast<Bytef*>(packed.data()), &size, reinterpret_cast<const Bytef*>(text.data()), text.size());
  packed.resize(size);
  const auto id = caller.start("/echo/here", framed(packed, 1), true, {{"grpc-encoding", "deflate"}});
  EXPECT_EQ(caller.finish(id).headers.at("grpc-status"), "8");
}

TEST_F(Transport, MalformedCallsAreRefusedOneByOne) {
  start();
  Caller caller(server->port());
  const auto code = [&](const std::string& body, const Caller::Headers& headers = {}) {
    const auto& reply = caller.finish(caller.start("/echo/here", body, true, headers));
    if (reply.headers.empty()) return std::string("reset");
    const auto found = reply.headers.find("grpc-status");
    return found == reply.headers.end() ? "http " + reply.headers.at(":status") : found->second;
  };
  EXPECT_EQ(code(""), "13");
  EXPECT_EQ(code(framed("whole").substr(0, 7)), "13");
  EXPECT_EQ(code(framed("one") + framed("two")), "13");
  EXPECT_EQ(code(framed("x", 1)), "13");
  EXPECT_EQ(code(framed("x", 2)), "13");
  EXPECT_EQ(code(framed("x"), {{"grpc-encoding", "snappy"}}), "12");
  for (const auto* timeout : {"", "1", "S", "-1S", "123456789S", "1x", "1.5S"}) {
    EXPECT_EQ(code(framed("x"), {{"grpc-timeout", timeout}}), "13") << timeout;
  }
  EXPECT_EQ(code(framed("x"), {{"grpc-timeout", "99999999H"}}), "0");
  EXPECT_EQ(code(framed("x"), {{"grpc-timeout", " 1S"}}), "reset");
  EXPECT_EQ(code(framed("x"), {{"content-type", "text/plain"}}), "http 415");
  EXPECT_EQ(code(framed("x"), {{":method", "PUT"}}), "http 405");
  EXPECT_EQ(code(framed("x"), {{"big", std::string(33'000, 'b')}}), "8");
  EXPECT_EQ(code(framed("x")), "0");
}

TEST_F(Transport, AStreamEndsAtItsDeadline) {
  start();
  Caller caller(server->port());
  const auto id = caller.start("/silent/stream", framed("m"), false, {{"grpc-timeout", "50m"}});
  EXPECT_EQ(caller.finish(id).headers.at("grpc-status"), "4");
  EXPECT_TRUE(eventually([&] { return seen.cancelled == 1 && seen.deleted == 1; }));
}

TEST_F(Transport, BytesThatAreNoHttp2CloseTheirConnectionOnly) {
  start();
  Caller caller(server->port());
  for (const std::string& bytes : {std::string("GET / HTTP/1.1\r\n\r\n"), std::string(100, '\0'),
                                   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + std::string(64, '\xff')}) {
    const int fd = connect_to(server->port());
    ASSERT_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), static_cast<ssize_t>(bytes.size()));
    std::array<char, 4096> buffer;
    pollfd ready{fd, POLLIN, 0};
    ssize_t got = 1;
    while (got > 0 && poll(&ready, 1, 20'000) == 1) got = recv(fd, buffer.data(), buffer.size(), 0);
    EXPECT_LE(got, 0);
    close(fd);
  }
  EXPECT_EQ(caller.finish(caller.start("/echo/here", framed("x"))).messages().size(), 1U);
}

std::string frame(std::uint8_t type, std::uint8_t stream, const std::string& payload) {
  const auto size = static_cast<char>(payload.size());
  return std::string{'\0', '\0', size, static_cast<char>(type), '\0', '\0', '\0', '\0', static_cast<char>(stream)} +
         payload;
}

// As gRPC's core sends it of a call whose deadline passed before it was written.
TEST_F(Transport, AResetOfAStreamThatNeverWasEndsNobodysCall) {
  start();
  Caller caller(server->port());
  const auto open = caller.start("/echo/here", "", false);
  caller.raw(frame(3, 9, {'\0', '\0', '\0', '\x08'}));
  EXPECT_EQ(caller.finish(caller.start("/echo/here", framed("x"))).messages().size(), 1U);
  EXPECT_FALSE(caller.reply(open).closed);
}

TEST(TransportResets, AreTakenOutHoweverTheBytesAreCut) {
  const std::string four(4, '\0');
  const auto preface = std::string("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") + frame(4, 0, "");
  const auto before = preface + frame(1, 1, "0123456789") + frame(3, 1, four);
  const auto between = frame(0, 1, std::string(100, '\3')) + frame(1, 9, "") + frame(3, 7, four) + frame(3, 9, four);
  const auto after = frame(3, 11, four + "x") + frame(8, 0, four);
  const auto sent = before + frame(3, 5, four) + between + frame(3, 11, four) + after;
  for (std::size_t cut = 1; cut <= sent.size(); ++cut) {
    ResetFilter filter;
    std::string got;
    const auto feed = [&got](std::span<const std::uint8_t> bytes) {
      got.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return true;
    };
    for (std::size_t at = 0; at < sent.size(); at += cut) {
      const auto part = std::string_view(sent).substr(at, cut);
      ASSERT_TRUE(filter.pass({reinterpret_cast<const std::uint8_t*>(part.data()), part.size()}, feed));
    }
    ASSERT_EQ(got, before + between + after) << "cut into parts of " << cut;
  }
}

TEST_F(Transport, ACallerThatReadsNothingHoldsOnlyItself) {
  start();
  Caller lazy(server->port(), (1 << 30));
  const std::string large(4'000'000, 'x');
  // Far more answers than sockets and windows take; never read.
  for (int i = 0; i < 8; ++i) lazy.start("/echo/here", framed(large));
  Caller other(server->port());
  EXPECT_EQ(other.finish(other.start("/echo/here", framed("x"))).messages().size(), 1U);
}

TEST_F(Transport, StoppingCancelsWhatIsLeftAndWaitsForIt) {
  start(2);
  Caller caller(server->port());
  caller.start("/silent/stream", framed("m"), false);
  EXPECT_TRUE(eventually([&] { return seen.messages == 1; }));
  server->stop(Clock::now() + 20ms);
  EXPECT_EQ(seen.cancelled, 1);
  EXPECT_EQ(seen.deleted, 1);
}

TEST(TransportMetadata, TimeoutsAreRead) {
  EXPECT_EQ(parse_timeout("250000u"), 250ms);
  EXPECT_EQ(parse_timeout("250m"), 249500us);
  EXPECT_EQ(parse_timeout("0m"), 0ms);
  EXPECT_EQ(parse_timeout("1H"), 1h);
  EXPECT_EQ(parse_timeout("0n"), 0ns);
  EXPECT_EQ(parse_timeout("12345678u"), 12345678us);
  EXPECT_EQ(parse_timeout("5"), std::nullopt);
}

TEST(TransportMetadata, TextsAreEncoded) {
  EXPECT_EQ(percent_encode("a b%\xc3\xa9"), "a b%25%C3%A9");
  EXPECT_EQ(base64_encode("any carnal pleas"), "YW55IGNhcm5hbCBwbGVhcw");
  EXPECT_EQ(base64_encode(""), "");
}

}  // namespace
}  // namespace starling::transport
