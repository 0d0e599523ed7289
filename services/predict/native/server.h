// The gRPC server of a node: hot methods native, all others handed to Python.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "control_call.h"
#include "health.h"
#include "infer_codec.h"
#include "node.h"
#include "orca_service.h"
#include "predict_codec.h"
#include "transport/grpc_server.h"

namespace starling::predict {

struct ServerOptions {
  std::string name;                     // node name, echoed in every response
  std::string address;                  // host:port; port 0 picks a free one
  std::map<std::string, bool> methods;  // served by Python: full name -> streams
  int message_bytes_max = 64 << 20;
  int streams_max = 1024;                                          // concurrent calls of one connection
  std::uint64_t shared_memory_bytes_max = std::uint64_t{1} << 30;  // of all regions together; 0: none
  bool triton_statuses = false;         // of the Open Inference Protocol: Triton's status codes instead of ours
  bool load_reports = false;            // in the trailers of answers, as ORCA has them
  std::shared_ptr<transport::Tls> tls;  // null: plain text
};

// Thread-safe. Starts in the constructor; throws Error(kInvalidConfig) when the address can not be bound.
class Server {
 public:
  Server(std::shared_ptr<ModelRegistry> models, const ServerOptions& options);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const noexcept { return port_; }

  // grpc.health.v1 for "" and every service that is served.
  void set_serving(bool serving) { health_.set_serving(serving); }

  std::shared_ptr<ControlCall> next_call(std::chrono::milliseconds timeout) { return control_.next(timeout); }

  // NOT_SERVING, refuses new requests, answers the admitted ones, then closes every connection.
  // Returns the calls that were cut off at `until`.
  std::int64_t drain(TimePoint until);

  const Node& node() const noexcept { return node_; }
  std::uint64_t tls_refused() const noexcept { return tls_ ? tls_->refused() : 0; }
  SharedMemory& regions() noexcept { return node_.regions(); }

 private:
  transport::Methods methods(const std::map<std::string, bool>& served_by_python);

  Node node_;
  Health health_;
  OrcaService orca_;
  ControlService control_;
  PredictCodec predict_codec_;
  InferCodec infer_codec_;
  std::shared_ptr<transport::Tls> tls_;
  std::optional<transport::GrpcServer> transport_;
  int port_ = 0;
  bool stopped_ = false;
};

}  // namespace starling::predict
