#include "http2_client.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace starling::bench {
namespace {

using namespace std::chrono_literals;

constexpr auto kSilenceMax = 10s;
constexpr std::int32_t kWindow = 64 << 20;
constexpr std::size_t kUnsentMax = 256 << 10;  // beyond it, bodies wait, so that new calls and resets overtake them
constexpr std::size_t kPiecesMax = 64;         // of one write
constexpr std::size_t kFrameHead = 9;
constexpr std::size_t kPrefix = 5;

constexpr int kCancelled = 1;
constexpr int kUnknown = 2;
constexpr int kResourceExhausted = 8;
constexpr int kInternal = 13;
constexpr int kUnavailable = 14;

std::array<char, kPrefix> prefix_of(std::size_t size) {
  return {0, static_cast<char>(size >> 24), static_cast<char>(size >> 16), static_cast<char>(size >> 8),
          static_cast<char>(size)};
}

std::string percent_decode(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    if (text[i] == '%' && i + 2 < text.size() &&
        std::from_chars(text.data() + i + 1, text.data() + i + 3, value, 16).ptr == text.data() + i + 3) {
      out += static_cast<char>(value);
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

// What gRPC makes of a stream without a status.
int code_of_reset(std::uint32_t error) {
  switch (error) {
    case NGHTTP2_REFUSED_STREAM:
      return kUnavailable;
    case NGHTTP2_CANCEL:
      return kCancelled;
    case NGHTTP2_ENHANCE_YOUR_CALM:
      return kResourceExhausted;
    default:
      return kInternal;
  }
}

int code_of_http(int status) {
  return status == 429 || status == 502 || status == 503 || status == 504 ? kUnavailable : kUnknown;
}

int number_of(std::string_view text) {
  int value = kUnknown;
  std::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

}  // namespace

nghttp2_nv header(std::string_view name, std::string_view value, bool is_its_own) {
  // NOLINTBEGIN: nghttp2 copies them
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(),
          // It would only push what repeats out of the peer's table.
          static_cast<std::uint8_t>(is_its_own ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE)};
  // NOLINTEND
}

std::string grpc_timeout(std::chrono::nanoseconds left) {
  constexpr std::array<std::pair<std::int64_t, char>, 5> kUnits{
      {{1'000, 'u'}, {1'000'000, 'm'}, {1'000'000'000, 'S'}, {60'000'000'000, 'M'}, {3'600'000'000'000, 'H'}}};
  constexpr std::int64_t kValueMax = 99'999'999;
  const auto value_in = [&](std::int64_t unit) { return left.count() / unit + (left.count() % unit > 0 ? 1 : 0); };
  const auto found = std::find_if(kUnits.begin(), kUnits.end() - 1,
                                  [&](const auto& unit) { return value_in(unit.first) <= kValueMax; });
  return std::to_string(value_in(found->first)) + found->second;
}

struct Http2Client::Stream {
  std::list<Stream>::iterator place;
  std::size_t call = 0;
  std::int32_t id = 0;
  std::array<char, kPrefix> prefix{};
  std::string extra;
  std::size_t size = 0;    // of the body
  std::size_t offset = 0;  // of what was not sent of it
  Reply reply;
  int http_status = 0;
  bool has_status = false;
  bool over = false;  // ended or cancelled
};

struct Http2Client::Callbacks {
  static Http2Client& of(void* user) { return *static_cast<Http2Client*>(user); }
  static Stream* stream_of(nghttp2_session* session, std::int32_t id) {
    return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
  }

  static int on_header(nghttp2_session* session, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t, void*) {
    auto* stream = stream_of(session, frame->hd.stream_id);
    if (stream == nullptr) return 0;
    const std::string_view key(reinterpret_cast<const char*>(name), name_size);
    const std::string_view text(reinterpret_cast<const char*>(value), value_size);
    if (key == ":status") {
      stream->http_status = number_of(text);
    } else if (key == "grpc-status") {
      stream->reply.code = number_of(text);
      stream->has_status = true;
    } else if (key == "grpc-message") {
      stream->reply.message = percent_decode(text);
    }
    return 0;
  }

  static int on_data(nghttp2_session* session, std::uint8_t, std::int32_t id, const std::uint8_t*, std::size_t size,
                     void*) {
    if (auto* stream = stream_of(session, id)) stream->reply.bytes += size;
    return 0;
  }

  static int on_frame(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    const auto& head = frame->hd;
    if (head.type == NGHTTP2_SETTINGS) of(user).greeted_ = true;
    if ((head.type != NGHTTP2_HEADERS && head.type != NGHTTP2_DATA) || (head.flags & NGHTTP2_FLAG_END_STREAM) == 0) {
      return 0;
    }
    auto* stream = stream_of(session, head.stream_id);
    if (stream == nullptr) return 0;
    if (!stream->has_status) {
      stream->reply.code = code_of_http(stream->http_status);
      stream->reply.message = "an answer without a gRPC status, with HTTP's " + std::to_string(stream->http_status);
    }
    // Whoever has answered wants no more of the request.
    if (stream->offset < stream->size) {
      nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, head.stream_id, NGHTTP2_CANCEL);
    }
    of(user).end(*stream);
    return 0;
  }

  static int on_close(nghttp2_session* session, std::int32_t id, std::uint32_t error, void* user) {
    auto* stream = stream_of(session, id);
    if (stream == nullptr) return 0;
    auto& self = of(user);
    if (!stream->has_status) {
      stream->reply.code = code_of_reset(error);
      stream->reply.message = std::string("reset by ") + nghttp2_http2_strerror(error);
    }
    self.end(*stream);
    self.spare_.splice(self.spare_.begin(), self.streams_, stream->place);
    return 0;
  }

  static ssize_t data_size(nghttp2_session*, std::uint8_t, std::int32_t, std::int32_t connection_window,
                           std::int32_t stream_window, std::uint32_t frame_size_max, void*) {
    return std::min<std::int64_t>({connection_window, stream_window, frame_size_max});
  }

  static ssize_t next_data(nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t room, std::uint32_t* flags,
                           nghttp2_data_source* source, void*) {
    const auto& stream = *static_cast<Stream*>(source->ptr);
    const auto left = stream.size - stream.offset;
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (left <= room) *flags |= NGHTTP2_DATA_FLAG_EOF;
    return static_cast<ssize_t>(std::min(left, room));
  }

  static int send_data(nghttp2_session*, nghttp2_frame*, const std::uint8_t* head, std::size_t size,
                       nghttp2_data_source* source, void* user) {
    auto& self = of(user);
    if (self.unsent_ >= kUnsentMax) return NGHTTP2_ERR_WOULDBLOCK;
    self.write_data(*static_cast<Stream*>(source->ptr), {reinterpret_cast<const char*>(head), kFrameHead}, size);
    return 0;
  }

  static const nghttp2_session_callbacks* all() {
    static const auto* made = [] {
      nghttp2_session_callbacks* c = nullptr;
      nghttp2_session_callbacks_new(&c);
      nghttp2_session_callbacks_set_on_header_callback(c, on_header);
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data);
      nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame);
      nghttp2_session_callbacks_set_on_stream_close_callback(c, on_close);
      nghttp2_session_callbacks_set_data_source_read_length_callback(c, data_size);
      nghttp2_session_callbacks_set_send_data_callback(c, send_data);
      return c;
    }();
    return made;
  }
};

Http2Client::Socket::Socket(const std::string& target) {
  const auto colon = target.rfind(':');
  if (colon == std::string::npos) throw std::runtime_error("\"" + target + "\" is not HOST:PORT");
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(target.substr(0, colon).c_str(), target.substr(colon + 1).c_str(), &hints, &found);
  if (error != 0) throw std::runtime_error("no address of " + target + ": " + gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  for (const auto* at = found; at != nullptr; at = at->ai_next) {
    fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    const int on = 1;
    const timeval patience{std::chrono::seconds(kSilenceMax).count(), 0};
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);  // of connect(); no write blocks
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, at->ai_addr, at->ai_addrlen) == 0) return;
    close(std::exchange(fd, -1));
  }
  throw std::runtime_error("no server at " + target);
}

Http2Client::Socket::~Socket() { close(fd); }

Http2Client::Http2Client(const std::string& target, std::string method, std::string message, Ended ended)
    : authority_(target),
      method_(std::move(method)),
      message_(std::move(message)),
      ended_(std::move(ended)),
      socket_(target),
      in_(1 << 20) {
  nghttp2_session* session = nullptr;
  nghttp2_session_client_new(&session, Callbacks::all(), this);
  session_.reset(session);
  const std::array<nghttp2_settings_entry, 3> settings{{{NGHTTP2_SETTINGS_ENABLE_PUSH, 0},
                                                        {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kWindow},
                                                        {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 1 << 20}}};
  nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, kWindow);
  headers_ = {header(":method", "POST"),        header(":scheme", "http"), header(":path", method_),
              header(":authority", authority_), header("te", "trailers"),  header("content-type", "application/grpc")};
  greet(target);
}

Http2Client::~Http2Client() = default;

// Windows and the number of calls are the server's to say; before that, they are HTTP/2's small ones.
void Http2Client::greet(const std::string& target) {
  const auto until = Clock::now() + kSilenceMax;
  while (!greeted_) {
    if (!turn(until) && Clock::now() >= until) throw std::runtime_error(target + " does not speak HTTP/2");
  }
}

Http2Client::Stream* Http2Client::start(std::size_t call, std::span<const nghttp2_nv> more, std::string_view extra) {
  if (spare_.empty()) spare_.emplace_back();
  streams_.splice(streams_.begin(), spare_, spare_.begin());
  auto& stream = streams_.front();
  stream.place = streams_.begin();
  stream.call = call;
  stream.prefix = prefix_of(message_.size() + extra.size());
  stream.extra = extra;
  stream.size = kPrefix + message_.size() + extra.size();
  stream.offset = 0;
  stream.reply.code = 0;
  stream.reply.message.clear();
  stream.reply.bytes = 0;
  stream.http_status = 0;
  stream.has_status = stream.over = false;
  const auto count = headers_.size();
  headers_.insert(headers_.end(), more.begin(), more.end());
  nghttp2_data_provider body{};
  body.source.ptr = &stream;
  body.read_callback = Callbacks::next_data;
  stream.id = nghttp2_submit_request(session_.get(), nullptr, headers_.data(), headers_.size(), &body, &stream);
  headers_.resize(count);
  if (stream.id < 0) throw std::runtime_error(nghttp2_strerror(stream.id));
  return &stream;
}

void Http2Client::cancel(Stream& stream) {
  stream.over = true;
  nghttp2_submit_rst_stream(session_.get(), NGHTTP2_FLAG_NONE, stream.id, NGHTTP2_CANCEL);
}

void Http2Client::end(Stream& stream) {
  if (!std::exchange(stream.over, true)) ended_(stream.call, stream.reply);
}

void Http2Client::append(std::string_view bytes) {
  own_ += bytes;
  unsent_ += bytes.size();
  if (out_.empty() || out_.back().message != nullptr) out_.emplace_back();
  out_.back().size += bytes.size();
}

void Http2Client::write_data(Stream& stream, std::string_view head, std::size_t size) {
  // Less is cheaper to copy.
  constexpr std::size_t kReferMin = 4096;
  append(head);
  auto at = stream.offset;
  stream.offset += size;
  const std::array<std::string_view, 3> parts{std::string_view(stream.prefix.data(), kPrefix), message_, stream.extra};
  for (std::size_t i = 0; i < parts.size() && size > 0; ++i) {
    const auto skipped = std::min(at, parts[i].size());
    const auto part = parts[i].substr(skipped, size);
    at -= skipped;
    size -= part.size();
    if (i == 1 && part.size() >= kReferMin) {
      out_.push_back({part.data(), part.size()});
      unsent_ += part.size();
    } else {
      append(part);
    }
  }
}

void Http2Client::flush() {
  const std::uint8_t* data = nullptr;
  ssize_t size = 0;
  while (unsent_ < kUnsentMax && (size = nghttp2_session_mem_send(session_.get(), &data)) > 0) {
    append({reinterpret_cast<const char*>(data), static_cast<std::size_t>(size)});
  }
  if (size < 0) throw std::runtime_error(nghttp2_strerror(static_cast<int>(size)));
  more_ = unsent_ >= kUnsentMax;
  if (unsent_ == 0) return;
  std::array<iovec, kPiecesMax> parts;
  std::size_t count = 0;
  auto* own = own_.data();
  for (const auto& piece : out_) {
    if (count == parts.size()) break;
    auto* from = piece.message != nullptr ? const_cast<char*>(piece.message) : own;  // NOLINT: only read
    if (piece.message == nullptr) own += piece.size;
    parts[count++] = {from, piece.size};
  }
  msghdr message{};
  message.msg_iov = parts.data();
  message.msg_iovlen = count;
  const auto sent = sendmsg(socket_.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0 && errno != EAGAIN && errno != EINTR) {
    throw std::runtime_error(std::string("the connection broke: ") + std::strerror(errno));
  }
  if (sent <= 0) return;
  unsent_ -= static_cast<std::size_t>(sent);
  std::size_t own_sent = 0;
  auto at = out_.begin();
  for (auto left = static_cast<std::size_t>(sent); left > 0;) {
    const auto taken = std::min(left, at->size);
    left -= taken;
    at->size -= taken;
    if (at->message == nullptr) {
      own_sent += taken;
    } else {
      at->message += taken;
    }
    if (at->size == 0) ++at;
  }
  out_.erase(out_.begin(), at);
  own_.erase(0, own_sent);
}

bool Http2Client::wait(Clock::time_point until) const {
  const auto left = std::max<Clock::duration>(until - Clock::now(), 0ns);
  const auto seconds = std::chrono::floor<std::chrono::seconds>(left);
  const timespec timeout{seconds.count(), (left - seconds).count()};
  pollfd ready{socket_.fd, static_cast<short>(more_ || unsent_ > 0 ? POLLIN | POLLOUT : POLLIN), 0};
  return ppoll(&ready, 1, &timeout, nullptr) > 0 && (ready.revents & ~POLLOUT) != 0;
}

bool Http2Client::turn(Clock::time_point until) {
  flush();
  const bool is_patient = until == Clock::time_point::max();
  const bool blocks = is_patient && !more_ && unsent_ == 0;  // spares the poll
  if (!blocks && !wait(is_patient ? now_ + kSilenceMax : until)) {
    if (is_patient && Clock::now() - now_ >= kSilenceMax) throw std::runtime_error("the server says nothing");
    return false;
  }
  const auto got = recv(socket_.fd, in_.data(), in_.size(), blocks ? 0 : MSG_DONTWAIT);
  if (got < 0 && errno == EAGAIN && blocks) throw std::runtime_error("the server says nothing");
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return false;
  if (got < 0) throw std::runtime_error(std::string("the connection broke: ") + std::strerror(errno));
  if (got == 0) throw std::runtime_error("the server closed the connection");
  now_ = Clock::now();
  if (nghttp2_session_mem_recv(session_.get(), in_.data(), static_cast<std::size_t>(got)) < 0) {
    throw std::runtime_error("the server does not speak HTTP/2");
  }
  return true;
}

}  // namespace starling::bench
