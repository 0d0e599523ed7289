#include "server.h"

#include <absl/synchronization/mutex.h>
#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/health_check_service_interface.h>
#include <malloc.h>

#include <set>

#include "stream_call.h"
#include "unary_call.h"

namespace starling::predict {
namespace {

constexpr const char* kPredictService = "starling.predict.v1.PredictService";
constexpr const char* kInferService = "inference.GRPCInferenceService";

// Frames of some 600 KB would be mapped and unmapped for each request with glibc's defaults (measured: 1174 us
// against 649 us a round trip). Memory then stays at its high-water mark, so queues are bounded by bytes.
void tune_allocator() {
  mallopt(M_MMAP_THRESHOLD, 256 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  mallopt(M_TOP_PAD, 16 << 20);
}

}  // namespace

// A service's hot methods as gRPC's code generator would register them, but with raw bytes on both sides. Its other
// methods, if it has any, are Python's.
class Server::HotService final : public grpc::Service {
 public:
  HotService(Node& node, const Codec& codec, const std::string& service, const char* unary, const char* stream)
      : names_{"/" + service + "/" + unary, "/" + service + "/" + stream} {
    using grpc::internal::RpcMethod;
    using grpc::internal::RpcServiceMethod;
    // The method keeps the pointer to its name.
    AddMethod(new RpcServiceMethod(names_[0].c_str(), RpcMethod::NORMAL_RPC, nullptr));  // NOLINT: owned by Service
    MarkMethodRawCallback(0, new grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
                                 [&](grpc::CallbackServerContext* context, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) -> grpc::ServerUnaryReactor* {
                                   return new UnaryCall(node, codec, *context, *request, *response);
                                 }));
    AddMethod(new RpcServiceMethod(names_[1].c_str(), RpcMethod::BIDI_STREAMING, nullptr));  // NOLINT
    MarkMethodRawCallback(
        1, new grpc::internal::CallbackBidiHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
               [&](grpc::CallbackServerContext* context) { return new StreamCall(node, codec, *context); }));
  }

 private:
  const std::array<std::string, 2> names_;
};

Server::Server(std::shared_ptr<ModelRegistry> models, const ServerOptions& options)
    : node_(std::move(models), options.name, options.shared_memory_bytes_max,
            static_cast<std::uint64_t>(options.message_bytes_max)),
      control_(node_, options.methods),
      infer_codec_(options.triton_statuses ? InferCodec::Statuses::kTriton : InferCodec::Statuses::kOwn) {
  tune_allocator();
  // Debian builds it to look for lock cycles on every lock, which costs a request 1.5 us and ends no deadlock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  hot_.push_back(std::make_unique<HotService>(node_, predict_codec_, kPredictService, "Predict", "PredictStream"));
  hot_.push_back(std::make_unique<HotService>(node_, infer_codec_, kInferService, "ModelInfer", "ModelStreamInfer"));
  std::set<std::string> services{"", kPredictService, kInferService};
  for (const auto& [method, streams] : options.methods) services.insert(method.substr(1, method.find('/', 1) - 1));
  services_.assign(services.begin(), services.end());

  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(options.message_bytes_max);
  builder.SetMaxSendMessageSize(options.message_bytes_max);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.streams_max);
  // A taken port is an error, not a second listener that takes half of the connections.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  // Agents behind flaky links ping to find out; every 5 s is not abuse.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Flow control keeps gRPC's defaults on purpose. Without its bandwidth probes small requests cost a tenth less, but
  // a frame to a node 40 ms away then waits for a window of 64 KB again and again, and misses its deadline.
  builder.AddListeningPort(options.address, make_credentials(options.tls, tls_refused_), &port_);
  for (const auto& service : hot_) builder.RegisterService(service.get());
  builder.RegisterCallbackGenericService(&control_);
  server_ = builder.BuildAndStart();
  if (!server_ || port_ == 0) {
    throw Error(Reason::kInvalidConfig, "address " + options.address +
                                            " can not be bound: the port is taken or the host is not this machine's; "
                                            "choose another with --grpc, port 0 picks a free one");
  }
  set_serving(false);
}

Server::~Server() { drain(Clock::now()); }

void Server::set_serving(bool serving) {
  auto* health = server_->GetHealthCheckService();
  if (health == nullptr) return;
  for (const auto& service : services_) health->SetServingStatus(service, serving);
}

std::int64_t Server::drain(TimePoint until) {
  if (std::exchange(stopped_, true)) return 0;
  set_serving(false);
  const auto left = node_.drain(until);
  control_.close();
  server_->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
  server_->Wait();
  return left;
}

}  // namespace starling::predict
