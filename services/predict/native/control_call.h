// Every method that is not hot: handed to Python through one bounded queue, drained by Python's own thread.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

#include "node.h"
#include "transport/call.h"

namespace starling::predict {

class ControlStream;

// One message of a control call, as Python holds it. Answering a call that has gone away does nothing.
class ControlCall {
 public:
  ControlCall(std::string method, std::string message, double deadline_s)
      : method(std::move(method)), message(std::move(message)), deadline_s(deadline_s) {}

  // Sends one response; ends a unary call with OK, lets a streaming call go on. Only the first answer counts.
  void reply(const std::string& response);
  // Ends the call. `code` is a canonical gRPC status code, `details` a serialised google.rpc.Status or empty.
  void fail(int code, const std::string& text, const std::string& details);
  // Ends the call with a reason of ours.
  void refuse(const Status& status);

  const std::string method;   // "/package.Service/Method"
  const std::string message;  // serialised request
  const double deadline_s;    // time left at arrival; a day when there is no deadline

 private:
  friend class ControlStream;
  std::mutex mutex_;
  ControlStream* stream_ = nullptr;  // guarded by mutex_; null once answered or gone
};

// The calls that wait for Python. Thread-safe.
class ControlService {
 public:
  static constexpr std::size_t kQueueMax = 64;

  explicit ControlService(Node& node) : node_(node) {}

  // A method that Python serves; of one that streams, each message is answered by one message.
  transport::Method method(bool streams);

  // The next call, or null after `timeout`.
  std::shared_ptr<ControlCall> next(std::chrono::milliseconds timeout);

  // False when the queue is full.
  bool offer(std::shared_ptr<ControlCall> call);

  // Fails what waits and whatever comes later.
  void close();

 private:
  Node& node_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::shared_ptr<ControlCall>> queue_;  // guarded by mutex_
  bool closed_ = false;                             // guarded by mutex_
};

// Refuses calls of a name that nothing serves.
transport::Method unknown_method();

}  // namespace starling::predict
