// A closed-loop load generator: N unary calls always outstanding on one connection, the same request bytes each time.
// usage: starling-load HOST:PORT METHOD REQUEST_FILE OUTSTANDING SECONDS [MAX_REQUESTS]
// Prints one JSON object: requests, errors, first_error, seconds, rps, p50_us, p99_us, p999_us, response_bytes.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
constexpr std::chrono::milliseconds kWarmUp{300};
constexpr long kErrorsMax = 100;

struct Call {
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  grpc::ByteBuffer response;
  grpc::Status status;
  Clock::time_point start;
};

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

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6 && argc != 7) {
    std::fprintf(stderr, "usage: starling-load HOST:PORT METHOD REQUEST_FILE OUTSTANDING SECONDS [MAX_REQUESTS]\n");
    return 2;
  }
  const std::string method = argv[2];
  std::ifstream file(argv[3], std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  const auto outstanding = std::strtoul(argv[4], nullptr, 10);
  const auto seconds = std::strtod(argv[5], nullptr);
  const auto requests_max = argc == 7 ? std::strtoul(argv[6], nullptr, 10) : ~0UL;

  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  const auto channel = grpc::CreateCustomChannel(argv[1], grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
    std::fprintf(stderr, "starling-load: no server at %s\n", argv[1]);
    return 1;
  }
  grpc::GenericStub stub(channel);
  const grpc::Slice slice(bytes.data(), bytes.size());
  const grpc::ByteBuffer request(&slice, 1);
  grpc::CompletionQueue queue;
  std::vector<Call> calls(outstanding);
  std::vector<float> latencies;
  latencies.reserve(1 << 20);
  unsigned long sent = 0;
  long errors = 0;
  std::string first_error;

  const auto fire = [&](Call& call) {
    ++sent;
    call.context = std::make_unique<grpc::ClientContext>();
    call.context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    call.start = Clock::now();
    call.reader = stub.PrepareUnaryCall(call.context.get(), method, request, &queue);
    call.reader->StartCall();
    call.reader->Finish(&call.response, &call.status, &call);
  };

  const auto begin = Clock::now();
  auto measured_from = begin + kWarmUp;
  const auto until =
      measured_from + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  for (auto& call : calls) fire(call);
  std::size_t live = calls.size();
  auto last = begin;
  while (live > 0) {
    void* tag = nullptr;
    bool ok = false;
    if (!queue.Next(&tag, &ok)) break;
    auto& call = *static_cast<Call*>(tag);
    const auto now = Clock::now();
    if (!call.status.ok()) {
      if (errors++ == 0) first_error = std::to_string(call.status.error_code()) + " " + call.status.error_message();
    } else if (now >= measured_from && now < until) {
      latencies.push_back(std::chrono::duration<float, std::micro>(now - call.start).count());
      last = now;
    }
    if (now >= until || sent >= requests_max || errors > kErrorsMax) {
      --live;
    } else {
      fire(call);
    }
  }
  std::sort(latencies.begin(), latencies.end());
  const double took = std::chrono::duration<double>(std::max(last, measured_from) - measured_from).count();
  const auto count = latencies.size();
  std::printf(
      "{\"requests\": %zu, \"sent\": %lu, \"errors\": %ld, \"first_error\": \"%s\", \"seconds\": %.3f, \"rps\": %.1f, "
      "\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"request_bytes\": %zu, \"response_bytes\": %zu}\n",
      count, sent, errors, json_text(first_error).c_str(), took, took > 0 ? static_cast<double>(count) / took : 0.0,
      quantile(latencies, 0.5), quantile(latencies, 0.99), quantile(latencies, 0.999), bytes.size(),
      calls.empty() ? 0UL : calls[0].response.Length());
  return errors == 0 ? 0 : 1;
}
