// Calls to another gRPC server by raw bytes: how a node speaks to the control plane without a second gRPC library.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/sync_stream.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>

namespace starling::predict {

// How a call ended; `payload` is the serialised response of a unary call that went well.
struct LinkReply {
  int code = 0;  // canonical status code
  std::string message;
  std::string payload;
};

// One bidirectional stream. One thread may read while another writes; cancel() is for any thread.
class LinkStream {
 public:
  LinkStream(std::shared_ptr<grpc::Channel> channel, std::string method);
  ~LinkStream();
  LinkStream(const LinkStream&) = delete;
  LinkStream& operator=(const LinkStream&) = delete;

  // False once the stream is broken. Blocks while the peer takes nothing.
  bool write(const std::string& message);

  // Blocks for the next message; nothing at the end of the stream.
  std::optional<std::string> read();

  // Ends the stream soon; a blocked read or write returns.
  void cancel() { context_.TryCancel(); }

  // How it ended; call once, after read() returned nothing.
  LinkReply finish();

 private:
  std::shared_ptr<grpc::Channel> channel_;
  const std::string method_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> stream_;
  bool finished_ = false;
};

// How the other server is known, and what we show it.
struct LinkTls {
  std::string certificate;  // PEM: our own, then those between it and the authority
  std::string key;          // PEM: private key of the first one
  std::string authorities;  // PEM: that the server's certificate may come from
  std::string server;       // SPIFFE id of the server, with all below if it ends in '/'; empty: its host name
};

// A connection that repairs itself: after a break it is tried again at most a second later. Thread-safe.
class Link {
 public:
  explicit Link(const std::string& target, const std::optional<LinkTls>& tls = std::nullopt);

  LinkReply call(const std::string& method, const std::string& payload, std::chrono::milliseconds timeout);
  std::shared_ptr<LinkStream> open(const std::string& method) { return std::make_shared<LinkStream>(channel_, method); }

 private:
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace starling::predict
