// A closed-loop load generator: N unary calls always outstanding on one connection, the same request bytes each time.
// usage: starling-load HOST:PORT METHOD REQUEST_FILE OUTSTANDING SECONDS [MAX_REQUESTS]
// Prints one JSON object: requests, errors, first_error, seconds, rps, p50_us, p99_us, p999_us, response_bytes.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "http2_client.h"
#include "program.h"

namespace starling::bench {
namespace {

constexpr std::chrono::milliseconds kWarmUp{300};
constexpr long kErrorsMax = 100;

class Load {
 public:
  Load(const std::string& target, const std::string& method, std::string message, unsigned long requests_max)
      : client_(target, method, std::move(message),
                [this](std::size_t call, const Reply& reply) { on_end(call, reply); }),
        requests_max_(requests_max) {
    latencies.reserve(1 << 20);
  }

  void run(std::size_t outstanding, double seconds) {
    const auto begin = Clock::now();
    measured_from = begin + kWarmUp;
    until_ = measured_from + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    last = begin;
    starts_.resize(outstanding);
    for (std::size_t call = 0; call < outstanding; ++call) start(call);
    try {
      while (live_ > 0 && errors <= kErrorsMax) client_.turn();
    } catch (const std::runtime_error& error) {
      fail(error.what());
    }
  }

  std::vector<float> latencies;
  Clock::time_point measured_from;
  Clock::time_point last;
  unsigned long sent = 0;
  long errors = 0;
  std::string first_error;
  std::size_t response_bytes = 0;

 private:
  void start(std::size_t call) {
    const std::array<nghttp2_nv, 1> more{header("grpc-timeout", "10S")};
    starts_[call] = Clock::now();
    client_.start(call, more);
    ++sent;
    ++live_;
  }

  void on_end(std::size_t call, const Reply& reply) {
    constexpr std::size_t kPrefix = 5;
    const auto now = client_.now();
    --live_;
    if (reply.code != 0) {
      fail(std::to_string(reply.code) + " " + reply.message);
    } else if (now >= measured_from && now < until_) {
      latencies.push_back(std::chrono::duration<float, std::micro>(now - starts_[call]).count());
      last = now;
      response_bytes = reply.bytes > kPrefix ? reply.bytes - kPrefix : 0;
    }
    if (now < until_ && sent < requests_max_) start(call);
  }

  void fail(const std::string& why) {
    if (errors++ == 0) first_error = why;
  }

  Http2Client client_;
  const unsigned long requests_max_;
  std::vector<Clock::time_point> starts_;
  Clock::time_point until_;
  std::size_t live_ = 0;
};

int load(int argc, char** argv) {
  auto message = read_file(argv[3]);
  const auto request_bytes = message.size();
  const auto outstanding = parse_number<std::size_t>(argv[4], "OUTSTANDING");
  const auto seconds = parse_number<double>(argv[5], "SECONDS");
  const auto requests_max =
      argc == 7 ? parse_number<unsigned long>(argv[6], "MAX_REQUESTS") : std::numeric_limits<unsigned long>::max();
  Load load(argv[1], argv[2], std::move(message), requests_max);
  load.run(outstanding, seconds);
  auto& latencies = load.latencies;
  std::sort(latencies.begin(), latencies.end());
  const double took =
      std::chrono::duration<double>(std::max(load.last, load.measured_from) - load.measured_from).count();
  const auto count = latencies.size();
  std::printf(
      "{\"requests\": %zu, \"sent\": %lu, \"errors\": %ld, \"first_error\": \"%s\", \"seconds\": %.3f, \"rps\": %.1f, "
      "\"p50_us\": %.1f, \"p99_us\": %.1f, \"p999_us\": %.1f, \"request_bytes\": %zu, \"response_bytes\": %zu}\n",
      count, load.sent, load.errors, json_text(load.first_error).c_str(), took,
      took > 0 ? static_cast<double>(count) / took : 0.0, quantile(latencies, 0.5), quantile(latencies, 0.99),
      quantile(latencies, 0.999), request_bytes, load.response_bytes);
  return load.errors == 0 ? 0 : 1;
}

}  // namespace
}  // namespace starling::bench

int main(int argc, char** argv) {
  if (argc != 6 && argc != 7) {
    std::fprintf(stderr, "usage: starling-load HOST:PORT METHOD REQUEST_FILE OUTSTANDING SECONDS [MAX_REQUESTS]\n");
    return 2;
  }
  return starling::bench::run_program("starling-load", [&] { return starling::bench::load(argc, argv); });
}
