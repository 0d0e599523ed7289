// A closed-loop load generator: N unary calls always outstanding on one connection, the same request bytes each time.
// usage: starling-load HOST:PORT METHOD REQUEST_FILE OUTSTANDING SECONDS [MAX_REQUESTS]
// Prints one JSON object: requests, errors, first_error, seconds, rps, p50_us, p99_us, p999_us, response_bytes.
//
// It speaks HTTP/2 by nghttp2 alone, with one thread and no queue: a full gRPC client takes longer for a small call
// than a server does, and would measure itself.
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <nghttp2/nghttp2.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kWarmUp{300};
constexpr std::chrono::seconds kPatience{10};
constexpr long kErrorsMax = 100;
constexpr std::int32_t kWindow = 64 << 20;

double quantile(std::vector<float>& sorted, double q) {
  return sorted.empty() ? 0 : sorted[static_cast<std::size_t>(q * static_cast<double>(sorted.size() - 1))];
}

std::string json_text(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out;
}

int connect_to(const std::string& target) {
  const auto colon = target.rfind(':');
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (colon == std::string::npos ||
      getaddrinfo(target.substr(0, colon).c_str(), target.substr(colon + 1).c_str(), &hints, &found) != 0) {
    return -1;
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  for (const auto* at = found; at != nullptr; at = at->ai_next) {
    const int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    if (fd >= 0 && connect(fd, at->ai_addr, at->ai_addrlen) == 0) {
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      // A server that says nothing for so long has failed.
      const timeval patience{kPatience.count(), 0};
      setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
      return fd;
    }
    if (fd >= 0) close(fd);
  }
  return -1;
}

nghttp2_nv pair(std::string_view name, std::string_view value) {
  // NOLINTBEGIN: nghttp2 copies them
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
          NGHTTP2_NV_FLAG_NONE};
  // NOLINTEND
}

class Load {
 public:
  Load(int fd, std::string authority, std::string method, const std::string& message, unsigned long requests_max)
      : fd_(fd), authority_(std::move(authority)), method_(std::move(method)), requests_max_(requests_max) {
    const auto size = static_cast<std::uint32_t>(message.size());
    body_ = {'\0', static_cast<char>(size >> 24), static_cast<char>(size >> 16), static_cast<char>(size >> 8),
             static_cast<char>(size)};
    body_ += message;
    nghttp2_session_callbacks* callbacks = nullptr;
    nghttp2_session_callbacks_new(&callbacks);
    nghttp2_session_callbacks_set_on_header_callback(callbacks, on_header);
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(callbacks, on_data);
    nghttp2_session_callbacks_set_on_stream_close_callback(callbacks, on_close);
    nghttp2_session_callbacks_set_send_data_callback(callbacks, send_data);
    nghttp2_session_client_new(&session_, callbacks, this);
    nghttp2_session_callbacks_del(callbacks);
    const std::array<nghttp2_settings_entry, 3> settings{{{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                                          {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kWindow},
                                                          {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 1 << 20}}};
    nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
    nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kWindow);
    latencies.reserve(1 << 20);
  }
  ~Load() {
    nghttp2_session_del(session_);
    close(fd_);
  }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;

  void run(std::size_t outstanding, double seconds) {
    const auto begin = Clock::now();
    measured_from = begin + kWarmUp;
    until_ = measured_from + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    last = begin;
    calls_.resize(outstanding);
    for (auto& call : calls_) fire(call);
    std::vector<std::uint8_t> buffer(1 << 20);
    while (live_ > 0 && errors <= kErrorsMax) {
      if (!flush()) return fail("the connection broke");
      const auto got = recv(fd_, buffer.data(), buffer.size(), 0);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return fail(got == 0 ? "the server closed the connection" : "the server says nothing");
      now_ = Clock::now();
      if (nghttp2_session_mem_recv(session_, buffer.data(), static_cast<std::size_t>(got)) < 0) {
        return fail("the server speaks no HTTP/2");
      }
    }
  }

  std::vector<float> latencies;
  Clock::time_point measured_from;
  Clock::time_point last;
  unsigned long sent = 0;
  long errors = 0;
  std::string first_error;
  std::size_t response_bytes = 0;

 private:
  struct Call {
    Clock::time_point start;
    std::size_t offset = 0;  // of the body
    std::size_t received = 0;
    std::string status;
    std::string message;
  };

  static Load& of(void* user) { return *static_cast<Load*>(user); }
  static Call* call_of(nghttp2_session* session, std::int32_t id) {
    return static_cast<Call*>(nghttp2_session_get_stream_user_data(session, id));
  }

  static int on_header(nghttp2_session* session, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t, void*) {
    auto* call = call_of(session, frame->hd.stream_id);
    const std::string_view key(reinterpret_cast<const char*>(name), name_size);
    if (call == nullptr || !key.starts_with("grpc-")) return 0;
    const std::string_view text(reinterpret_cast<const char*>(value), value_size);
    if (key == "grpc-status") call->status = text;
    if (key == "grpc-message") call->message = text;
    return 0;
  }

  static int on_data(nghttp2_session* session, std::uint8_t, std::int32_t id, const std::uint8_t*, std::size_t size,
                     void*) {
    if (auto* call = call_of(session, id)) call->received += size;
    return 0;
  }

  static int on_close(nghttp2_session* session, std::int32_t id, std::uint32_t error, void* user) {
    if (auto* call = call_of(session, id)) of(user).closed(*call, error);
    return 0;
  }

  static ssize_t next_data(nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t room, std::uint32_t* flags,
                           nghttp2_data_source* source, void* user) {
    const auto& call = *static_cast<Call*>(source->ptr);
    const auto left = of(user).body_.size() - call.offset;
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (left <= room) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(std::min(left, room));
  }

  static int send_data(nghttp2_session*, nghttp2_frame*, const std::uint8_t* head, std::size_t size,
                       nghttp2_data_source* source, void* user) {
    auto& self = of(user);
    auto& call = *static_cast<Call*>(source->ptr);
    self.out_.append(reinterpret_cast<const char*>(head), 9);
    self.out_.append(self.body_, call.offset, size);
    call.offset += size;
    return 0;
  }

  void fire(Call& call) {
    call = {Clock::now(), 0, 0, {}, {}};
    const std::array<nghttp2_nv, 7> headers{pair(":method", "POST"),    pair(":scheme", "http"),
                                            pair(":path", method_),     pair(":authority", authority_),
                                            pair("te", "trailers"),     pair("content-type", "application/grpc"),
                                            pair("grpc-timeout", "10S")};
    nghttp2_data_provider body{};
    body.source.ptr = &call;
    body.read_callback = next_data;
    const auto id = nghttp2_submit_request(session_, nullptr, headers.data(), headers.size(), &body, &call);
    if (id < 0) return fail(nghttp2_strerror(id));
    ++sent;
    ++live_;
  }

  void closed(Call& call, std::uint32_t error) {
    constexpr std::size_t kPrefix = 5;
    --live_;
    if (call.status != "0") {
      fail(call.status.empty() ? std::string("reset: ") + nghttp2_http2_strerror(error)
                               : call.status + " " + call.message);
    } else if (now_ >= measured_from && now_ < until_) {
      latencies.push_back(std::chrono::duration<float, std::micro>(now_ - call.start).count());
      last = now_;
      response_bytes = call.received > kPrefix ? call.received - kPrefix : 0;
    }
    if (now_ < until_ && sent < requests_max_) fire(call);
  }

  void fail(const std::string& why) {
    if (errors++ == 0) first_error = why;
  }

  bool flush() {
    for (;;) {
      const std::uint8_t* data = nullptr;
      const auto size = nghttp2_session_mem_send(session_, &data);
      if (size < 0) return false;
      if (size == 0) break;
      out_.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
    }
    for (std::size_t done = 0; done < out_.size();) {
      const auto n = ::send(fd_, out_.data() + done, out_.size() - done, MSG_NOSIGNAL);
      if (n < 0 && errno != EINTR) return false;
      if (n > 0) done += static_cast<std::size_t>(n);
    }
    out_.clear();
    return true;
  }

  const int fd_;
  const std::string authority_;
  const std::string method_;
  const unsigned long requests_max_;
  std::string body_;
  nghttp2_session* session_ = nullptr;
  std::string out_;
  std::vector<Call> calls_;
  Clock::time_point now_;
  Clock::time_point until_;
  std::size_t live_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6 && argc != 7) {
    std::fprintf(stderr, "usage: starling-load HOST:PORT METHOD REQUEST_FILE OUTSTANDING SECONDS [MAX_REQUESTS]\n");
    return 2;
  }
  std::ifstream file(argv[3], std::ios::binary);
  const std::string message{std::istreambuf_iterator<char>(file), {}};
  const int fd = connect_to(argv[1]);
  if (fd < 0) {
    std::fprintf(stderr, "starling-load: no server at %s\n", argv[1]);
    return 1;
  }
  Load load(fd, argv[1], argv[2], message, argc == 7 ? std::strtoul(argv[6], nullptr, 10) : ~0UL);
  load.run(std::strtoul(argv[4], nullptr, 10), std::strtod(argv[5], nullptr));
  auto& latencies = load.latencies;
  std::sort(latencies.begin(), latencies.end());
  const double took =
      std::chrono::duration<double>(std::max(load.last, load.measured_from) - load.measured_from).count();
  const auto count = latencies.size();
  std::printf(
      "{\"requests\": %zu, \"sent\": %lu, \"errors\": %ld, \"first_error\": \"%s\", \"seconds\": %.3f, \"rps\": %.1f, "
      "\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"request_bytes\": %zu, \"response_bytes\": %zu}\n",
      count, load.sent, load.errors, json_text(load.first_error).c_str(), took,
      took > 0 ? static_cast<double>(count) / took : 0.0, quantile(latencies, 0.5), quantile(latencies, 0.99),
      quantile(latencies, 0.999), message.size(), load.response_bytes);
  return load.errors == 0 ? 0 : 1;
}
