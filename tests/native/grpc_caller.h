// A gRPC caller over loopback, made of nghttp2's client side: shows every header, trailer and byte as it came.
#pragma once

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <nghttp2/nghttp2.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "request.h"

namespace starling::testing {

// A message as it goes over the wire.
inline std::string framed(const std::string& message, char compressed = 0) {
  const auto size = static_cast<std::uint32_t>(message.size());
  return std::string{compressed, static_cast<char>(size >> 24), static_cast<char>(size >> 16),
                     static_cast<char>(size >> 8), static_cast<char>(size)} +
         message;
}

inline bool eventually(const std::function<bool()>& holds) {
  const auto until = Clock::now() + std::chrono::seconds(20);
  while (!holds()) {
    if (Clock::now() > until) return false;
    std::this_thread::yield();
  }
  return true;
}

inline int connect_to(int port) {
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
    nghttp2_session_callbacks_set_on_frame_recv_callback(callbacks,
                                                         [](nghttp2_session*, const nghttp2_frame* frame, void* user) {
                                                           if (frame->hd.type == NGHTTP2_PING)
                                                             ++static_cast<Caller*>(user)->pings_;
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
    auto sending = std::make_unique<Body>(Body{std::move(body), 0, ends});
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
    bodies_[id] = std::move(sending);
    flush();
    return id;
  }

  // Half-closes a call that was started without an end.
  void end(std::int32_t id) {
    bodies_.at(id)->ends = true;
    nghttp2_session_resume_data(session_, id);
    flush();
  }

  void reset(std::int32_t id) {
    nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
    flush();
  }

  // Sends bytes that no client library would, after all that was sent before.
  void raw(std::string_view bytes) {
    flush();
    out_.append(bytes);
    flush();
  }

  // Lets the answer of a call be so many bytes longer.
  void widen(std::int32_t id, std::int32_t bytes) {
    nghttp2_submit_window_update(session_, NGHTTP2_FLAG_NONE, id, bytes);
    flush();
  }

  // Waits for the end of a call.
  const Reply& finish(std::int32_t id) {
    EXPECT_TRUE(wait([&] { return replies_[id].closed; }));
    return replies_[id];
  }

  bool wait(const std::function<bool()>& holds) {
    const auto until = Clock::now() + std::chrono::seconds(20);
    while (!holds()) {
      if (Clock::now() > until || !step()) return holds();
    }
    return true;
  }

  Reply& reply(std::int32_t id) { return replies_[id]; }

  // That the peer sent; those that were read have been answered.
  int pings() const { return pings_; }

  // From now on no packet reaches this side, so none leaves it, as if its machine had lost power.
  void vanish() {
    sock_filter nothing{BPF_RET | BPF_K, 0, 0, 0};
    const sock_fprog program{1, &nothing};
    EXPECT_EQ(setsockopt(fd_, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program), 0);
  }

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
    if (got <= 0 || nghttp2_session_mem_recv(session_, buffer.data(), static_cast<std::size_t>(got)) < 0) return false;
    flush();
    return true;
  }

  void flush() {
    for (;;) {
      const std::uint8_t* data = nullptr;
      const auto size = nghttp2_session_mem_send(session_, &data);
      if (size <= 0) break;
      out_.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
    }
    while (sent_ < out_.size()) {
      const auto sent = send(fd_, out_.data() + sent_, out_.size() - sent_, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent <= 0) return;
      sent_ += static_cast<std::size_t>(sent);
    }
    out_.clear();
    sent_ = 0;
  }

  const int fd_;
  nghttp2_session* session_ = nullptr;
  std::string out_;
  std::size_t sent_ = 0;  // of it
  int pings_ = 0;
  std::map<std::int32_t, std::unique_ptr<Body>> bodies_;
  std::map<std::int32_t, Reply> replies_;
};

}  // namespace starling::testing
