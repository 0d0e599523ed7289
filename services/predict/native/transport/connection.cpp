#include "connection.h"

#include <sys/epoll.h>

#include <array>
#include <charconv>
#include <cstring>

#include "event_loop.h"
#include "metadata.h"

namespace starling::transport {
namespace {

// A frame of half a megabyte to a node 40 ms away must not wait for windows; nghttp2 opens them again at their half.
constexpr std::int32_t kStreamWindow = 4 << 20;
constexpr std::int32_t kConnectionWindow = 16 << 20;
constexpr std::uint32_t kHeaderBytesMax = 32 << 10;
constexpr std::size_t kOutBytesMax = 1 << 20;  // beyond it, answers stay with their streams
constexpr std::size_t kReadsMax = 4;           // in a row, then other connections have their turn
constexpr std::size_t kRecordMin = 4096;       // less is not worth a TLS record of its own
constexpr std::size_t kPrefixBytes = 5;
constexpr std::chrono::seconds kGreetingMax{10};
constexpr std::chrono::seconds kRoundTripFor{1};  // it is believed, then asked for again
// Cancelling is ordinary where the newest frame wins, and a gateway sends all of it over one connection.
constexpr std::uint64_t kResetBurst = 100'000;
constexpr std::uint64_t kResetsPerSecond = 20'000;

nghttp2_nv pair(std::string_view name, std::string_view value, std::uint8_t flags = NGHTTP2_NV_FLAG_NONE) {
  // NOLINTBEGIN: nghttp2 copies them
  return {reinterpret_cast<std::uint8_t*>(const_cast<char*>(name.data())),
          reinterpret_cast<std::uint8_t*>(const_cast<char*>(value.data())), name.size(), value.size(), flags};
  // NOLINTEND
}

// The texts of trailers for as long as nghttp2 copies them.
class Trailers {
 public:
  static constexpr std::size_t kMax = 4;

  std::size_t write(const Ending& ending, std::span<nghttp2_nv> out) {
    std::size_t count = 0;
    status_ = std::to_string(ending.code);
    out[count++] = pair("grpc-status", status_);
    // Texts of one refusal each would only push what repeats out of the peer's table.
    if (!ending.message.empty()) {
      message_ = percent_encode(ending.message);
      out[count++] = pair("grpc-message", message_, NGHTTP2_NV_FLAG_NO_INDEX);
    }
    if (!ending.details.empty()) {
      details_ = base64_encode(ending.details);
      out[count++] = pair("grpc-status-details-bin", details_, NGHTTP2_NV_FLAG_NO_INDEX);
    }
    if (ending.load && !ending.load->empty()) {
      load_ = base64_encode(*ending.load);
      out[count++] = pair("endpoint-load-metrics-bin", load_, NGHTTP2_NV_FLAG_NO_INDEX);
    }
    return count;
  }

 private:
  std::string status_;
  std::string message_;
  std::string details_;
  std::string load_;
};

Ending too_much() {
  return {kResourceExhausted, "too many bytes of requests are on their way to this node; retry later", {}};
}

}  // namespace

// A message, and how much of it has left.
struct Sending {
  wire::Encoded message;  // with its prefix
  std::size_t own = 0;
  std::size_t payload = 0;         // index of the one that is next
  std::size_t payload_offset = 0;  // of that

  bool over() const noexcept { return own == message.own.size() && payload == message.payloads.size(); }

  // The next at most `max` bytes: own ones, or, in `range`, ones of a payload.
  std::span<const std::uint8_t> next(std::size_t max, wire::Range& range) {
    const bool last = payload == message.payloads.size();
    if (const auto until = last ? message.own.size() : message.payloads[payload].at; own < until) {
      const auto size = std::min(max, until - own);
      const auto* data = reinterpret_cast<const std::uint8_t*>(message.own.data()) + own;
      own += size;
      return {data, size};
    }
    const auto& whole = message.payloads[payload].range;
    const auto size = std::min(max, whole.size - payload_offset);
    range = {whole.buffer, whole.offset + payload_offset, size};
    payload_offset += size;
    if (payload_offset == whole.size) {
      ++payload;
      payload_offset = 0;
    }
    return {range.data(), size};
  }
};

struct Stream {
  struct Held {
    std::span<const std::uint8_t> left;
    SlabRef slab;
    std::vector<std::uint8_t> copy;  // where no slab keeps them
  };
  // A part smaller than this is copied and not kept where it is, so that many of them share some memory.
  static constexpr std::size_t kHeldCopy = 4096;

  Stream(Connection& owner, std::int32_t number, ReceiveBudget& receive_budget, std::uint64_t bytes_max)
      : connection(&owner), id(number), budget(receive_budget), reader(receive_budget, bytes_max) {}
  ~Stream() {
    while (!held.empty()) let_go();
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Keeps data for later; false when there is no memory for it.
  bool hold(std::span<const std::uint8_t> data, const SlabRef& slab) {
    if (slab && data.size() >= kHeldCopy) {
      held.push_back({data, slab, {}});
      return true;
    }
    const auto fits = [&](const std::vector<std::uint8_t>& copy) {
      return copy.capacity() - copy.size() >= data.size();
    };
    if (held.empty() || !fits(held.back().copy)) {
      std::vector<std::uint8_t> copy;
      copy.reserve(std::max(data.size(), kHeldCopy));
      if (!budget.take(copy.capacity())) return false;
      held.push_back({{copy.data(), 0}, {}, std::move(copy)});
    }
    auto& last = held.back();
    last.copy.insert(last.copy.end(), data.begin(), data.end());
    last.left = {last.left.data(), last.left.size() + data.size()};
    return true;
  }
  // Forgets the first of them.
  void let_go() {
    budget.give_back(held.front().copy.capacity());
    held.pop_front();
  }

  bool is_full() const noexcept { return window > 0 && unanswered >= window; }

  Connection* connection;
  std::int32_t id;
  std::list<std::unique_ptr<Stream>>::iterator place;

  // In.
  CallHead head;
  std::uint32_t header_bytes = 0;
  bool is_grpc = false;
  bool is_post = false;
  Encoding encoding = Encoding::kIdentity;
  bool bad_timeout = false;
  Call* call = nullptr;  // null before it is made and once it has finished
  int window = 0;
  int unanswered = 0;
  ReceiveBudget& budget;
  MessageReader reader;
  std::deque<Held> held;           // data that came while the window was full
  std::optional<Message> message;  // of a unary call, until its end has come
  bool half_closed = false;
  bool told_half_closed = false;

  // Out.
  std::deque<Sending> out;
  std::uint64_t out_bytes = 0;
  bool responded = false;  // headers are submitted
  bool ended = false;      // `ending` is the last word
  Ending ending;

  std::function<void()> late;
  TimePoint late_at = TimePoint::max();
};

std::uint64_t Call::unsent() const noexcept { return stream_ == nullptr ? 0 : stream_->out_bytes; }

// nghttp2's C callbacks. No exception may pass through them.
struct Callbacks {
  static Connection& of(void* user) { return *static_cast<Connection*>(user); }
  static Stream* stream(nghttp2_session* session, std::int32_t id) {
    return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
  }

  static int on_begin_headers(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) return 0;
    auto* opened = of(user).open_stream(frame->hd.stream_id);
    nghttp2_session_set_stream_user_data(session, frame->hd.stream_id, opened);
    return 0;
  }

  static int on_header(nghttp2_session* session, const nghttp2_frame* frame, const std::uint8_t* name,
                       std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t,
                       void* user) {
    if (auto* s = stream(session, frame->hd.stream_id); s != nullptr && s->call == nullptr) {
      of(user).on_header(*s, {reinterpret_cast<const char*>(name), name_size},
                         {reinterpret_cast<const char*>(value), value_size});
    }
    return 0;
  }

  static int on_frame_recv(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    auto* s = frame->hd.stream_id > 0 ? stream(session, frame->hd.stream_id) : nullptr;
    if (s == nullptr) return 0;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) of(user).on_head(*s);
    if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
      of(user).on_half_close(*s);
    }
    return 0;
  }

  static int on_data(nghttp2_session* session, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                     std::size_t size, void* user) {
    nghttp2_session_consume_connection(session, size);
    if (auto* s = stream(session, id)) of(user).on_data(*s, {data, size});
    return 0;
  }

  static int on_frame_send(nghttp2_session* session, const nghttp2_frame* frame, void*) {
    // An answer that comes before the end of its request: the caller need not send the rest.
    if ((frame->hd.type == NGHTTP2_HEADERS || frame->hd.type == NGHTTP2_DATA) &&
        (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0) {
      const auto* s = stream(session, frame->hd.stream_id);
      if (s != nullptr && !s->half_closed) {
        nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_NO_ERROR);
      }
    }
    return 0;
  }

  static int on_close(nghttp2_session* session, std::int32_t id, std::uint32_t, void* user) {
    if (auto* s = stream(session, id)) of(user).on_closed(*s);
    return 0;
  }

  static ssize_t next_data(nghttp2_session*, std::int32_t, std::uint8_t*, std::size_t size, std::uint32_t* flags,
                           nghttp2_data_source* source, void* user) {
    return of(user).next_data(*static_cast<Stream*>(source->ptr), size, *flags);
  }

  static ssize_t data_size(nghttp2_session*, std::uint8_t, std::int32_t, std::int32_t connection_window,
                           std::int32_t stream_window, std::uint32_t frame_size_max, void*) {
    return std::min<std::int64_t>({connection_window, stream_window, frame_size_max});
  }

  static int send_data(nghttp2_session*, nghttp2_frame*, const std::uint8_t* head, std::size_t size,
                       nghttp2_data_source* source, void* user) {
    return of(user).write_data(*static_cast<Stream*>(source->ptr), head, size) ? 0 : NGHTTP2_ERR_WOULDBLOCK;
  }

  static const nghttp2_session_callbacks* all() {
    static const auto* made = [] {
      nghttp2_session_callbacks* c = nullptr;
      nghttp2_session_callbacks_new(&c);
      nghttp2_session_callbacks_set_on_begin_headers_callback(c, on_begin_headers);
      nghttp2_session_callbacks_set_on_header_callback(c, on_header);
      nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame_recv);
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data);
      nghttp2_session_callbacks_set_on_frame_send_callback(c, on_frame_send);
      nghttp2_session_callbacks_set_on_stream_close_callback(c, on_close);
      nghttp2_session_callbacks_set_data_source_read_length_callback(c, data_size);
      nghttp2_session_callbacks_set_send_data_callback(c, send_data);
      return c;
    }();
    return made;
  }

  static const nghttp2_option* options() {
    static const auto* made = [] {
      nghttp2_option* o = nullptr;
      nghttp2_option_new(&o);
      nghttp2_option_set_no_auto_window_update(o, 1);
      nghttp2_option_set_no_closed_streams(o, 1);
      nghttp2_option_set_stream_reset_rate_limit(o, kResetBurst, kResetsPerSecond);
      return o;
    }();
    return made;
  }
};

Connection::Connection(EventLoop& loop, int fd, std::shared_ptr<SSL_CTX> tls, const ConnectionOptions& options,
                       const Methods& methods, ReceiveBudget& budget, std::function<void()> closed)
    : loop_(loop),
      tls_(std::move(tls)),
      socket_(fd, tls_.get()),
      options_(options),
      methods_(methods),
      budget_(budget),
      closed_(std::move(closed)),
      events_(EPOLLIN) {
  nghttp2_session* session = nullptr;
  nghttp2_session_server_new2(&session, Callbacks::all(), this, Callbacks::options());
  session_.reset(session);
  const std::array<nghttp2_settings_entry, 4> settings{{
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, options.streams_max},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, kStreamWindow},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 1 << 20},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, kHeaderBytesMax},
  }};
  nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
  check_ = [this] { check_peer(); };
  check_after(kGreetingMax);
}

Connection::~Connection() {
  loop_.remove_timer({check_at_, &check_});
  for (auto& stream : streams_) {
    if (stream->late_at != TimePoint::max()) loop_.remove_timer({stream->late_at, &stream->late});
    cancel(*stream);
  }
  if (closed_) closed_();
}

void Connection::close() {
  if (std::exchange(closing_, true)) return;
  loop_.close_later(*this);
}

void Connection::go_away() {
  if (!secured_) return close();
  auto* session = session_.get();
  nghttp2_submit_goaway(session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session), NGHTTP2_NO_ERROR,
                        nullptr, 0);
  leaving_ = true;
  set_dirty();
}

void Connection::set_dirty() {
  if (!std::exchange(dirty_, true)) loop_.set_dirty(*this);
}

void Connection::want(std::uint32_t events) {
  if (events_ == events) return;
  events_ = events;
  loop_.update(*this, events);
}

void Connection::on_ready(std::uint32_t events) {
  if (closing_) return;
  if (!secured_) {
    const auto state = socket_.handshake();
    if (state == Socket::State::kClosed) return close();
    if (state == Socket::State::kAgain) return want(socket_.wants_write() ? EPOLLOUT : EPOLLIN);
    secured_ = true;
    want(EPOLLIN);
    set_dirty();  // our settings
  }
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) read();
  if ((events & EPOLLOUT) != 0) set_dirty();
}

void Connection::check_after(Clock::duration time) {
  check_at_ = Clock::now() + time;
  loop_.add_timer({check_at_, &check_});
}

// Counts checks without a byte, so that reading needs no clock and a loop that was held up accuses nobody.
void Connection::check_peer() {
  if (!greeted_) return close();
  check_after(options_.silence_max);
  if (asked_ && !heard_) read();  // what came and was not looked at
  if (std::exchange(heard_, false)) {
    asked_ = false;
  } else if (!std::exchange(asked_, true)) {
    nghttp2_submit_ping(session_.get(), NGHTTP2_FLAG_NONE, nullptr);
    set_dirty();
  } else if (socket_.is_draining(options_.silence_max)) {
    asked_ = false;  // the PING may be behind a large answer on a slow link
  } else {
    close();
  }
}

void Connection::read() {
  auto& memory = loop_.memory();
  // A peer that does not read its answers is not read from either.
  for (std::size_t reads = 0; reads < kReadsMax && !closing_ && out_bytes_ < kOutBytesMax; ++reads) {
    std::size_t size = 0;
    const auto room = memory.room();
    const auto state = socket_.read(room, size);
    memory.filled(size);
    if (state == Socket::State::kClosed) return close();
    if (state == Socket::State::kAgain) break;
    heard_ = true;
    const auto feed = [this](std::span<const std::uint8_t> bytes) {
      return nghttp2_session_mem_recv(session_.get(), bytes.data(), bytes.size()) >= 0;
    };
    if (!resets_.pass(room.first(size), feed)) return close();
    set_dirty();
    if (tls_ == nullptr && size < room.size()) break;
  }
  // What TLS holds decrypted, epoll does not see.
  if (!closing_ && socket_.has_pending()) loop_.read_again(*this);
}

Stream* Connection::open_stream(std::int32_t id) {
  if (!std::exchange(greeted_, true)) {
    loop_.remove_timer({check_at_, &check_});
    check_after(options_.silence_max);
  }
  streams_.push_back(std::make_unique<Stream>(*this, id, budget_, options_.message_bytes_max));
  auto& stream = *streams_.back();
  stream.place = std::prev(streams_.end());
  return &stream;
}

Clock::duration Connection::round_trip(TimePoint now) {
  if (now - round_trip_asked_ > kRoundTripFor) {
    round_trip_asked_ = now;
    round_trip_ = socket_.round_trip();
  }
  return round_trip_;
}

void Connection::on_header(Stream& stream, std::string_view name, std::string_view value) {
  stream.header_bytes += static_cast<std::uint32_t>(name.size() + value.size() + 32);
  if (stream.header_bytes > kHeaderBytesMax) return;
  if (name == ":path") {
    stream.head.method = value;
  } else if (name == ":method") {
    stream.is_post = value == "POST";
  } else if (name == "content-type") {
    stream.is_grpc = value.starts_with("application/grpc");
  } else if (name == "grpc-timeout") {
    const auto timeout = parse_timeout(value);
    stream.bad_timeout = !timeout;
    const auto now = Clock::now();
    // The caller's clock ran while the request came, and runs on until the answer is there.
    if (timeout && *timeout < std::chrono::hours(24)) stream.head.deadline = now + *timeout - round_trip(now);
  } else if (name == "x-tenant") {
    stream.head.tenant = value;
  } else if (name == "x-model-default") {
    stream.head.routed = value;
  } else if (name == "grpc-encoding") {
    stream.encoding = encoding_from_name(value);
  }
}

void Connection::on_head(Stream& stream) {
  if (!stream.is_post || !stream.is_grpc) {
    const std::array<nghttp2_nv, 1> headers{pair(":status", stream.is_post ? "415" : "405")};
    nghttp2_submit_response(session_.get(), stream.id, headers.data(), headers.size(), nullptr);
    stream.responded = stream.ended = true;
    return;
  }
  if (stream.header_bytes > kHeaderBytesMax) {
    return end(stream,
               {kResourceExhausted, "the headers have more than " + std::to_string(kHeaderBytesMax) + " bytes", {}});
  }
  if (stream.bad_timeout) {
    return end(stream,
               {kInternal, "the header grpc-timeout is malformed; expected up to 8 digits and a unit of HMSmun", {}});
  }
  if (stream.encoding == Encoding::kUnknown) {
    return end(
        stream,
        {kUnimplemented, "the header grpc-encoding names no known encoding; send identity, gzip or deflate", {}});
  }
  stream.reader.set_encoding(stream.encoding);
  const auto found = methods_.by_name.find(stream.head.method);
  const auto& method = found != methods_.by_name.end() ? found->second : methods_.unknown;
  stream.window = method.window;
  const auto deadline = stream.head.deadline;
  auto call = method.make(std::move(stream.head));
  call->loop_ = &loop_;
  call->stream_ = &stream;
  stream.call = call.release();
  loop_.call_made();
  // A unary call's request has its deadline; whoever serves it answers for it.
  if (method.window > 0 && deadline != TimePoint::max()) {
    stream.late_at = deadline;
    stream.late = [this, &stream] {
      stream.late_at = TimePoint::max();
      end(stream, {kDeadlineExceeded, "the deadline of the call has passed", {}});
      set_dirty();
    };
    loop_.add_timer({stream.late_at, &stream.late});
  }
  stream.call->on_open();
}

// Bytes that are not taken stay with the stream, and its window stays closed by them.
void Connection::on_data(Stream& stream, std::span<const std::uint8_t> data) {
  const auto& slab = loop_.memory().slab();
  if (stream.held.empty()) data = data.subspan(take(stream, data, slab));
  if (!data.empty() && !stream.hold(data, slab)) end(stream, too_much());
}

// Reads messages while the stream's window has room; returns the bytes that this used up.
std::size_t Connection::take(Stream& stream, std::span<const std::uint8_t> data, const SlabRef& slab) {
  const auto size = data.size();
  while (!data.empty() && stream.call != nullptr && !stream.is_full()) {
    Message message;
    switch (stream.reader.read(data, message, slab)) {
      case MessageReader::Step::kMore:
        break;
      case MessageReader::Step::kMessage:
        if (stream.window > 0) {
          ++stream.unanswered;
          stream.call->on_message(std::move(message));
        } else if (!stream.message) {
          stream.message = std::move(message);
        } else {
          end(stream, {kInternal, "a unary call has one message, got more", {}});
        }
        break;
      case MessageReader::Step::kTooLarge:
        end(stream, {kResourceExhausted,
                     "the message has " + std::to_string(stream.reader.size()) + " bytes or more, at most " +
                         std::to_string(options_.message_bytes_max) + " are accepted; send smaller ones",
                     {}});
        break;
      case MessageReader::Step::kBadEncoding:
        end(stream, {kInternal, "the message is not what its prefix and grpc-encoding say", {}});
        break;
      case MessageReader::Step::kNoMemory:
        end(stream, too_much());
        break;
    }
  }
  const auto used = stream.call == nullptr ? size : size - data.size();
  nghttp2_session_consume_stream(session_.get(), stream.id, used);
  return used;
}

// Goes on with what was held once an answer has left.
void Connection::resume(Stream& stream) {
  while (!stream.held.empty()) {
    auto& front = stream.held.front();
    front.left = front.left.subspan(take(stream, front.left, front.slab));
    if (!front.left.empty()) return;
    stream.let_go();
  }
  if (stream.half_closed) on_half_close(stream);
}

void Connection::on_half_close(Stream& stream) {
  stream.half_closed = true;
  if (stream.call == nullptr || !stream.held.empty() || std::exchange(stream.told_half_closed, true)) return;
  if (!stream.reader.at_start()) return end(stream, {kInternal, "the request ends inside a message", {}});
  if (stream.window > 0) return stream.call->on_half_close();
  if (!stream.message) return end(stream, {kInternal, "the request has no message", {}});
  stream.call->on_message(std::move(*stream.message));
}

void Connection::on_closed(Stream& stream) {
  if (stream.late_at != TimePoint::max()) loop_.remove_timer({stream.late_at, &stream.late});
  cancel(stream);
  streams_.erase(stream.place);
}

// The call has its stream no more; it will still finish.
void Connection::cancel(Stream& stream) {
  if (auto* call = std::exchange(stream.call, nullptr)) {
    call->stream_ = nullptr;
    call->on_cancel();
  }
}

void Connection::end(Stream& stream, Ending&& ending) {
  if (std::exchange(stream.ended, true)) return;
  stream.ending = std::move(ending);
  respond(stream);
  cancel(stream);
}

void Connection::answer(EventLoop& loop, Post&& post) {
  auto* call = post.call;
  if (auto* stream = call->stream_) {
    auto& connection = *stream->connection;
    if (post.has_message) {
      auto& message = post.message;
      const auto size = static_cast<std::uint32_t>(message.size);
      const std::array<char, kPrefixBytes> prefix{0, static_cast<char>(size >> 24), static_cast<char>(size >> 16),
                                                  static_cast<char>(size >> 8), static_cast<char>(size)};
      message.own.insert(0, prefix.data(), prefix.size());
      for (auto& payload : message.payloads) payload.at += prefix.size();
      stream->out_bytes += message.size + prefix.size();
      stream->out.push_back({std::move(message)});
    }
    if (post.ends) {
      stream->ended = true;
      stream->ending = std::move(post.ending);
      stream->call = nullptr;
    }
    connection.respond(*stream);
  }
  if (post.ends) {
    loop.call_ended();
    delete call;  // NOLINT: the loop owns its calls
  }
}

// Tells nghttp2 that there is something to say.
void Connection::respond(Stream& stream) {
  set_dirty();
  if (std::exchange(stream.responded, true)) {
    nghttp2_session_resume_data(session_.get(), stream.id);
    return;
  }
  Trailers trailers;
  std::array<nghttp2_nv, 2 + Trailers::kMax> headers{pair(":status", "200"), pair("content-type", "application/grpc")};
  if (stream.ended && stream.out_bytes == 0) {
    const auto count = trailers.write(stream.ending, std::span(headers).subspan<2>());
    nghttp2_submit_response(session_.get(), stream.id, headers.data(), 2 + count, nullptr);
    return;
  }
  nghttp2_data_provider provider{};
  provider.source.ptr = &stream;
  provider.read_callback = Callbacks::next_data;
  nghttp2_submit_response(session_.get(), stream.id, headers.data(), 2, &provider);
}

ssize_t Connection::next_data(Stream& stream, std::size_t room, std::uint32_t& flags) {
  if (stream.out_bytes == 0 && !stream.ended) return NGHTTP2_ERR_DEFERRED;
  const auto size = std::min<std::uint64_t>(room, stream.out_bytes);
  flags |= NGHTTP2_DATA_FLAG_NO_COPY;
  if (stream.ended && size == stream.out_bytes) {
    flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    Trailers trailers;
    std::array<nghttp2_nv, Trailers::kMax> headers;
    const auto count = trailers.write(stream.ending, headers);
    nghttp2_submit_trailer(session_.get(), stream.id, headers.data(), count);
  }
  return static_cast<ssize_t>(size);
}

bool Connection::write_data(Stream& stream, const std::uint8_t* head, std::size_t size) {
  if (out_bytes_ >= kOutBytesMax) return false;
  constexpr std::size_t kHeadBytes = 9;
  append({head, kHeadBytes});
  stream.out_bytes -= size;
  while (size > 0) {
    auto& sending = stream.out.front();
    wire::Range payload;
    const auto bytes = sending.next(size, payload);
    if (payload.buffer == nullptr) {
      append(bytes);
    } else {
      send(std::move(payload));
    }
    size -= bytes.size();
    if (!sending.over()) continue;
    stream.out.pop_front();
    if (stream.window > 0 && stream.unanswered-- == stream.window) resumable_.push_back(stream.id);
  }
  return true;
}

void Connection::append(std::span<const std::uint8_t> bytes) {
  loop_.send_memory().append(out_, bytes);
  out_bytes_ += bytes.size();
}

// Encrypting copies it in any case.
void Connection::send(wire::Range&& payload) {
  if (tls_ != nullptr && payload.size < kRecordMin) return append({payload.data(), payload.size});
  out_bytes_ += payload.size;
  out_.push_back(std::move(payload));
}

// What a peer does not take now keeps no more memory than it has bytes.
void Connection::settle() {
  std::deque<wire::Range> out;
  std::size_t i = 0;
  while (i < out_.size()) {
    std::size_t size = 0;
    auto end = i;
    for (; end < out_.size() && out_[end].size < kRecordMin; ++end) size += out_[end].size;
    if (end - i < 1) {
      out.push_back(std::move(out_[i++]));
      continue;
    }
    const auto own = std::make_shared<Buffer>(size);
    auto* at = own->data();
    for (; i < end; ++i) at = std::copy_n(out_[i].data(), out_[i].size, at);
    out.push_back({own, 0, size});
  }
  out_ = std::move(out);
}

void Connection::flush() {
  dirty_ = false;
  if (closing_ || !secured_) return;
  auto* session = session_.get();
  bool blocked = false;
  for (bool more = true; more && !blocked;) {
    const std::uint8_t* data = nullptr;
    ssize_t size = 0;
    while (out_bytes_ < kOutBytesMax && (size = nghttp2_session_mem_send(session, &data)) > 0) {
      append({data, static_cast<std::size_t>(size)});
    }
    if (size < 0) return close();
    for (const auto id : std::exchange(resumable_, {})) {
      auto* stream = static_cast<Stream*>(nghttp2_session_get_stream_user_data(session, id));
      if (stream != nullptr) resume(*stream);
    }
    if (out_.empty()) break;
    switch (write()) {
      case Socket::State::kClosed:
        return close();
      case Socket::State::kAgain:
        settle();
        blocked = true;
        break;
      case Socket::State::kDone:
        more = !out_.empty() || nghttp2_session_want_write(session) != 0;
    }
  }
  want(!blocked ? EPOLLIN : out_bytes_ < kOutBytesMax ? EPOLLIN | EPOLLOUT : EPOLLOUT);
  if (!out_.empty()) return;
  const bool over = nghttp2_session_want_read(session) == 0 && nghttp2_session_want_write(session) == 0;
  if (over || (leaving_ && streams_.empty())) close();
}

Socket::State Connection::write() {
  std::array<std::span<const std::uint8_t>, Socket::kPiecesMax> pieces;
  std::size_t count = 0;
  for (const auto& range : out_) {
    if (count == pieces.size()) break;
    pieces[count++] = {range.data(), range.size};
  }
  pieces[0] = pieces[0].subspan(out_offset_);
  std::size_t written = 0;
  const auto state = socket_.write(std::span(pieces).first(count), written);
  out_bytes_ -= written;
  for (out_offset_ += written; !out_.empty() && out_offset_ >= out_.front().size; out_.pop_front()) {
    out_offset_ -= out_.front().size;
  }
  return state;
}

}  // namespace starling::transport
