// The seam between the HTTP/2 transport and whatever answers calls.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>

#include "message.h"
#include "wire.h"

namespace starling::transport {

class Connection;
class EventLoop;
struct Stream;

// What a call begins with.
struct CallHead {
  std::string method;                     // "/package.Service/Method"
  TimePoint deadline = TimePoint::max();  // an answer that leaves later comes after `grpc-timeout` to its caller
  std::string tenant;                     // `x-tenant`, which the gateway sets
  std::string routed;                     // `x-model-default`: "NAME:VERSION" of requests that name no version
};

// Canonical gRPC status codes that the server itself ends calls with.
inline constexpr int kInvalidArgument = 3;
inline constexpr int kDeadlineExceeded = 4;
inline constexpr int kNotFound = 5;
inline constexpr int kResourceExhausted = 8;
inline constexpr int kUnimplemented = 12;
inline constexpr int kInternal = 13;

// How a call ends.
struct Ending {
  int code = 0;                                  // canonical gRPC status code
  std::string message;                           // for people
  std::string details;                           // serialised google.rpc.Status, or empty
  std::shared_ptr<const std::string> load = {};  // serialised OrcaLoadReport for whoever weighs servers by it, or null
};

// One call. Made, told and deleted by its event loop's thread; answers from any thread. Every call ends itself with
// exactly one finish(), also after on_cancel(); it may be gone as soon as it has.
class Call {
 public:
  virtual ~Call() = default;

  // All from the loop's thread, which they must not block. Nothing is called after finish() was noticed.
  virtual void on_open() {}
  virtual void on_message(Message&& message) = 0;
  virtual void on_half_close() = 0;
  virtual void on_cancel() = 0;  // the caller has gone, or its deadline has

 protected:
  // Sends one message of a stream.
  void send(wire::Writer&& message);
  // Sends the last message, if any, and the end.
  void finish(wire::Writer&& message, Ending&& ending = {});
  void finish(Ending&& ending);

  // Of the loop's thread:
  EventLoop& loop() noexcept { return *loop_; }
  // Bytes of answers that wait for the caller to take more; those on their way to its socket are not among them.
  std::uint64_t unsent() const noexcept;

 private:
  friend class Connection;
  friend class EventLoop;

  EventLoop* loop_ = nullptr;  // set before on_open()
  Stream* stream_ = nullptr;   // the loop's; null once the stream is closed
};

// How calls of a method are made and how much of them is delivered.
struct Method {
  std::function<std::unique_ptr<Call>(CallHead&&)> make;
  // Of a stream: messages delivered and not yet answered, one answer each; the rest waits at its sender. 0: a unary
  // call, whose one message is delivered when it has wholly come.
  int window = 0;
};

// Immutable while served.
struct Methods {
  std::unordered_map<std::string, Method> by_name;
  Method unknown;  // calls of any other name
};

}  // namespace starling::transport
