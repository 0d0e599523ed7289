// The transport over real sockets of loopback, driven by nghttp2's own client side and by hand-made bytes.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <array>
#include <atomic>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "transport/grpc_server.h"
#include "transport/metadata.h"

namespace starling::transport {
namespace {

using namespace std::chrono_literals;

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

std::string framed(const std::string& message, char compressed = 0) {
  const auto size = static_cast<std::uint32_t>(message.size());
  return std::string{compressed, static_cast<char>(size >> 24), static_cast<char>(size >> 16),
                     static_cast<char>(size >> 8), static_cast<char>(size)} +
         message;
}

// What calls of the test's server have seen.
struct Seen {
  std::atomic<int> messages{0};
  std::atomic<int> cancelled{0};
  std::atomic<int> deleted{0};
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

bool eventually(const std::function<bool()>& holds) {
  const auto until = Clock::now() + 20s;
  while (!holds()) {
    if (Clock::now() > until) return false;
    std::this_thread::yield();
  }
  return true;
}

int connect_to(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<std::uint16_t>(port));
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return fd;
}

// A caller on one connection. Used by one thread.
class Caller {
 public:
  struct Reply {
    std::map<std::string, std::string> headers;
    std::string body;
    bool closed = false;
    std::uint32_t error = 0;

    // The messages of the body.
    std::vector<std::string> messages() const {
      std::vector<std::string> out;
      for (std::size_t at = 0; at + 5 <= body.size();) {
        std::size_t size = 0;
        for (std::size_t i = 1; i < 5; ++i) size = size << 8 | static_cast<std::uint8_t>(body[at + i]);
        out.push_back(body.substr(at + 5, size));
        at += 5 + size;
      }
      return out;
    }
  };

  explicit Caller(int port, std::int32_t window = 1 << 20) : fd_(connect_to(port)) {
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(
        callbacks, [](nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name, std::size_t name_size,
                      const std::uint8_t* value, std::size_t value_size, std::uint8_t, void* user) {
          auto& reply = static_cast<Caller*>(user)->replies_[frame->hd.stream_id];
          reply.headers[{reinterpret_cast<const char*>(name), name_size}] = {reinterpret_cast<const char*>(value),
                                                                             value_size};
          return 0;
        });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        callbacks,
        [](nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data, std::size_t size, void* user) {
          static_cast<Caller*>(user)->replies_[id].body.append(reinterpret_cast<const char*>(data), size);
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(
        callbacks, [](nghttp2_session*, std::int32_t id, std::uint32_t error, void* user) {
          auto& reply = static_cast<Caller*>(user)->replies_[id];
          reply.closed = true;
          reply.error = error;
          return 0;
        });
    nghttp2_session_client_new(&session_, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    const nghttp2_settings_entry settings{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, static_cast<std::uint32_t>(window)};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, &settings, 1);
  }
  ~Caller() {
    nghttp2_session_del(session_);
    close(fd_);
  }
  Caller(const Caller&) = delete;
  Caller& operator=(const Caller&) = delete;

  using Headers = std::vector<std::pair<std::string, std::string>>;

  // Starts a call with this body; without `ends` the caller does not half-close.
  std::int32_t start(const std::string& method, std::string body, bool ends = true, const Headers& more = {}) {
    Headers headers{{":method", "POST"},        {":scheme", "http"}, {":path", method},
                    {":authority", "loopback"}, {"te", "trailers"},  {"content-type", "application/grpc"}};
    for (const auto& [name, value] : more) {
      const auto same = [&](const auto& header) { return header.first == name; };
      const auto found = std::find_if(headers.begin(), headers.end(), same);
      (found != headers.end() ? *found : headers.emplace_back(name, "")).second = value;
    }
    std::vector<nghttp2_nv> pairs;
    for (auto& [name, value] : headers) {
      pairs.push_back({reinterpret_cast<std::uint8_t*>(name.data()), reinterpret_cast<std::uint8_t*>(value.data()),
                       name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
    }
    auto& sending = bodies_.emplace_back(std::make_unique<Body>(Body{std::move(body), 0, ends}));
    nghttp2_data_provider provider{};
    provider.source.ptr = sending.get();
    provider.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t* out, std::size_t room,
                                std::uint32_t* flags, nghttp2_data_source* source, void*) -> ssize_t {
      auto& from = *static_cast<Body*>(source->ptr);
      const auto size = std::min(room, from.bytes.size() - from.offset);
      if (size == 0 && !from.ends) return NGHTTP2_ERR_DEFERRED;
      std::copy_n(from.bytes.data() + from.offset, size, out);
      from.offset += size;
      if (from.offset == from.bytes.size() && from.ends) *flags |= NGHTTP2_DATA_FLAG_EOF;
      return static_cast<ssize_t>(size);
    };
    const auto id = nghttp2_submit_request(session_, nullptr, pairs.data(), pairs.size(), &provider, nullptr);
    flush();
    return id;
  }

  void reset(std::int32_t id) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    flush();
  }

  // Waits for the end of a call.
  const Reply& finish(std::int32_t id) {
    EXPECT_TRUE(wait([&] { return replies_[id].closed; }));
    return replies_[id];
  }

  bool wait(const std::function<bool()>& holds) {
    const auto until = Clock::now() + 20s;
    while (!holds()) {
      if (Clock::now() > until || !step()) return holds();
    }
    return true;
  }

  Reply& reply(std::int32_t id) { return replies_[id]; }

 private:
  struct Body {
    std::string bytes;
    std::size_t offset = 0;
    bool ends = true;
  };

  // Writes as long as the peer takes it, and reads meanwhile.
  bool step() {
    flush();
    pollfd ready{fd_, static_cast<short>(out_.empty() ? POLLIN : POLLIN | POLLOUT), 0};
    poll(&ready, 1, 100);
    if ((ready.revents & (POLLIN | POLLHUP)) == 0) return true;
    std::array<std::uint8_t, 65536> buffer;
    const auto got = recv(fd_, buffer.data(), buffer.size(), 0);
    return got > 0 && nghttp2_session_mem_recv(session_, buffer.data(), static_cast<std::size_t>(got)) >= 0;
  }

  void flush() {
    for (;;) {
      const std::uint8_t* data = nullptr;
      const auto size = nghttp2_session_mem_send(session_, &data);
      if (size <= 0) break;
      out_.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
    }
    while (!out_.empty()) {
      const auto sent = send(fd_, out_.data(), out_.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent <= 0) return;
      out_.erase(0, static_cast<std::size_t>(sent));
    }
  }

  const int fd_;
  nghttp2_session* session_ = nullptr;
  std::string out_;
  std::vector<std::unique_ptr<Body>> bodies_;
  std::map<std::int32_t, Reply> replies_;
};

class Transport : public testing::Test {
 protected:
  void start(int threads = 1, std::uint64_t received_bytes_max = 64 << 20) {
    Methods methods;
    methods.by_name["/echo/here"] = {[this](CallHead&&) { return std::make_unique<EchoCall>(seen, false); }, 0};
    methods.by_name["/echo/elsewhere"] = {[this](CallHead&&) { return std::make_unique<EchoCall>(seen, true); }, 0};
    methods.by_name["/echo/stream"] = {[this](CallHead&&) { return std::make_unique<EchoStream>(seen); }, 4};
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
  EXPECT_EQ(parse_timeout("250m"), 250ms);
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
