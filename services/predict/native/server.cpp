#include "server.h"

#include <malloc.h>

#include <algorithm>
#include <set>
#include <thread>

#include "stream_call.h"
#include "unary_call.h"

namespace starling::predict {
namespace {

constexpr const char* kPredictService = "starling.predict.v1.PredictService";
constexpr const char* kInferService = "inference.GRPCInferenceService";
constexpr const char* kOrcaService = "xds.service.orca.v3.OpenRcaService";

// Frames of some 600 KB would be mapped and unmapped for each request with glibc's defaults (measured: 1174 us
// against 649 us a round trip). Memory then stays at its high-water mark, so queues are bounded by bytes.
void tune_allocator() {
  mallopt(M_MMAP_THRESHOLD, 256 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  mallopt(M_TOP_PAD, 16 << 20);
}

std::vector<std::string> services_of(const std::map<std::string, bool>& methods) {
  std::set<std::string> services{"", kPredictService, kInferService, kOrcaService};
  for (const auto& [method, streams] : methods) services.insert(method.substr(1, method.find('/', 1) - 1));
  return {services.begin(), services.end()};
}

// The rest is the engines': a thread moves more than 50 000 small requests a second.
int io_threads() { return static_cast<int>(std::clamp(std::thread::hardware_concurrency() / 8, 1U, 4U)); }

}  // namespace

Server::Server(std::shared_ptr<ModelRegistry> models, const ServerOptions& options)
    : node_(std::move(models), options.name, options.shared_memory_bytes_max,
            static_cast<std::uint64_t>(options.message_bytes_max)),
      health_(services_of(options.methods)),
      orca_(node_.load(), options.name),
      control_(node_),
      infer_codec_(options.triton_statuses ? InferCodec::Statuses::kTriton : InferCodec::Statuses::kOwn),
      tls_(options.tls) {
  tune_allocator();
  if (options.load_reports) node_.report_load();
  transport::GrpcServerOptions transport;
  transport.address = options.address;
  transport.connection.message_bytes_max = static_cast<std::uint64_t>(options.message_bytes_max);
  transport.connection.streams_max = static_cast<std::uint32_t>(options.streams_max);
  transport.threads = io_threads();
  transport_.emplace(transport, methods(options.methods), tls_.get());
  port_ = transport_->port();
}

Server::~Server() { drain(Clock::now()); }

transport::Methods Server::methods(const std::map<std::string, bool>& served_by_python) {
  using transport::CallHead;
  transport::Methods out;
  out.unknown = unknown_method();
  const auto add = [&](const Codec& codec, const std::string& service, const char* unary, const char* stream) {
    out.by_name["/" + service + "/" + unary] = {
        [this, &codec](CallHead&& head) { return std::make_unique<UnaryCall>(node_, codec, std::move(head)); }, 0};
    out.by_name["/" + service + "/" + stream] = {
        [this, &codec](CallHead&& head) { return std::make_unique<StreamCall>(node_, codec, std::move(head)); },
        StreamCall::kWindow};
  };
  for (const auto& [name, streams] : served_by_python) out.by_name[name] = control_.method(streams);
  add(predict_codec_, kPredictService, "Predict", "PredictStream");
  add(infer_codec_, kInferService, "ModelInfer", "ModelStreamInfer");
  health_.add_methods(out);
  orca_.add_methods(out);
  return out;
}

std::int64_t Server::drain(TimePoint until) {
  if (std::exchange(stopped_, true)) return 0;
  set_serving(false);
  orca_.close();
  const auto left = node_.drain(until);
  control_.close();
  transport_->stop(Clock::now() + std::chrono::milliseconds(100));
  return left;
}

}  // namespace starling::predict
