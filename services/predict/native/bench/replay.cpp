// Replays a trace of arrivals in real time, whether or not earlier ones are answered (open loop), and says what
// became of each: answered before its deadline, later, or refused.
// usage: starling-replay HOST:PORT METHOD REQUEST_FILE TRACE_FILE [OUTCOME_FILE]
//
// A line of the trace is: arrival_us deadline_us tenant stream sequence priority
//   arrival_us from the start, ascending; deadline_us from the arrival; tenant, stream: a number, -1 for none.
// OUTCOME_FILE gets a line for each request, in the order of their ends: arrival_us took_us status_code.
// Prints one JSON object: sent, met, late, refused (by status code), p50_us and p99_us of those met, tenants (the same
// counts by tenant), lag_p99_us (how late requests were sent: the quality of this measurement), first_error (a refusal
// that neither overload nor a deadline explains).
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <queue>
#include <span>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "http2_client.h"
#include "program.h"

namespace starling::bench {
namespace {

using std::chrono::microseconds;

constexpr int kDeadlineExceeded = 4;
constexpr int kResourceExhausted = 8;
constexpr int kAborted = 10;

const Reply kTooLate{kDeadlineExceeded, {}, 0};

struct Arrival {
  long at_us = 0;
  long deadline_us = 0;
  long tenant = -1;
  long stream = -1;
  long sequence = 0;
  long priority = 0;
};

struct Counts {
  long sent = 0;
  long met = 0;
  long late = 0;
  std::map<int, long> refused;
};

void append_varint(std::string& out, unsigned long value) {
  while (value >= 0x80) {
    out += static_cast<char>((value & 0x7F) | 0x80);
    value >>= 7;
  }
  out += static_cast<char>(value);
}

// Fields of PredictRequest that differ from one request to the next; protobuf merges what is appended.
std::string fields_of(const Arrival& arrival) {
  std::string out;
  if (arrival.stream >= 0) {
    const auto stream = std::to_string(arrival.stream);
    append_varint(out, 6 << 3 | 2);
    append_varint(out, stream.size());
    out += stream;
    append_varint(out, 7 << 3);
    append_varint(out, static_cast<unsigned long>(arrival.sequence));
  }
  if (arrival.priority > 0) {
    append_varint(out, 8 << 3);
    append_varint(out, static_cast<unsigned long>(arrival.priority));
  }
  return out;
}

std::vector<Arrival> read_trace(const std::string& path) {
  std::istringstream lines(read_file(path));
  std::vector<Arrival> trace;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    Arrival a;
    words >> a.at_us >> a.deadline_us >> a.tenant >> a.stream >> a.sequence >> a.priority;
    const bool is_read = words && (words >> std::ws).eof();
    if (!is_read || a.deadline_us < 0 || a.at_us < (trace.empty() ? 0 : trace.back().at_us)) {
      throw std::runtime_error(path + ":" + std::to_string(trace.size() + 1) + ": found \"" + line +
                               "\", expected arrival_us (ascending) deadline_us tenant stream sequence priority");
    }
    trace.push_back(a);
  }
  if (trace.empty()) throw std::runtime_error(path + " has no arrivals");
  return trace;
}

class Replay {
 public:
  Replay(const std::string& target, const std::string& method, std::string message, const std::vector<Arrival>& trace,
         std::ostream& outcomes)
      : client_(target, method, std::move(message),
                [this](std::size_t call, const Reply& reply) { on_end(call, reply, client_.now()); }),
        trace_(trace),
        outcomes_(outcomes),
        live_(trace.size()) {}

  void run() {
    begin_ = Clock::now() + std::chrono::milliseconds(50);
    while (next_ < trace_.size() || unanswered_ > 0) {
      client_.turn(next_event());
      expire();  // only now: what came in time is counted before
      // One at a time, so that a burst of large requests keeps no answer waiting.
      if (next_ < trace_.size() && due(next_) <= Clock::now()) start(next_++);
    }
  }

  Counts all;
  std::map<long, Counts> tenants;
  std::vector<double> latencies;
  std::vector<double> lags;
  std::string first_error;

 private:
  Clock::time_point due(std::size_t call) const { return begin_ + microseconds(trace_[call].at_us); }
  Clock::time_point deadline(std::size_t call) const { return due(call) + microseconds(trace_[call].deadline_us); }

  // The arrival that is next, or the first deadline of a call that is not answered.
  Clock::time_point next_event() {
    while (!expiries_.empty() && live_[expiries_.top().second] == nullptr) expiries_.pop();
    auto next = next_ < trace_.size() ? due(next_) : Clock::time_point::max();
    if (!expiries_.empty()) next = std::min(next, expiries_.top().first);
    return next;
  }

  void start(std::size_t call) {
    const auto& arrival = trace_[call];
    ++unanswered_;
    if (const auto now = Clock::now(); now < deadline(call)) {
      const auto timeout = grpc_timeout(deadline(call) - now);
      const auto tenant = std::to_string(arrival.tenant);
      const std::array<nghttp2_nv, 2> more{header("grpc-timeout", timeout, true), header("x-tenant", tenant)};
      live_[call] = client_.start(call, std::span(more).first(arrival.tenant >= 0 ? 2 : 1), fields_of(arrival));
      expiries_.emplace(deadline(call), call);
      client_.flush();
    } else {
      on_end(call, kTooLate, now);
    }
    lags.push_back(std::chrono::duration<double, std::micro>(Clock::now() - due(call)).count());
  }

  void expire() {
    const auto now = Clock::now();
    for (; !expiries_.empty() && expiries_.top().first <= now; expiries_.pop()) {
      const auto call = expiries_.top().second;
      if (live_[call] == nullptr) continue;
      client_.cancel(*live_[call]);
      on_end(call, kTooLate, now);
    }
  }

  void on_end(std::size_t call, const Reply& reply, Clock::time_point now) {
    const auto& arrival = trace_[call];
    live_[call] = nullptr;
    --unanswered_;
    const auto took = std::chrono::duration<double, std::micro>(now - due(call)).count();
    const bool is_in_time = took <= static_cast<double>(arrival.deadline_us);
    outcomes_ << arrival.at_us << ' ' << static_cast<long>(took) << ' ' << reply.code << '\n';
    for (auto* counts : {&all, &tenants[arrival.tenant]}) {
      ++counts->sent;
      if (reply.code != 0) {
        ++counts->refused[reply.code];
      } else {
        ++(is_in_time ? counts->met : counts->late);
      }
    }
    if (reply.code == 0) {
      if (is_in_time) latencies.push_back(took);
    } else if (first_error.empty() && reply.code != kDeadlineExceeded && reply.code != kResourceExhausted &&
               reply.code != kAborted) {
      first_error = std::to_string(reply.code) + " " + reply.message;
    }
  }

  using Expiry = std::pair<Clock::time_point, std::size_t>;

  Http2Client client_;
  const std::vector<Arrival>& trace_;
  std::ostream& outcomes_;
  std::vector<Http2Client::Stream*> live_;  // by arrival; null before and after
  std::priority_queue<Expiry, std::vector<Expiry>, std::greater<>> expiries_;
  Clock::time_point begin_;
  std::size_t next_ = 0;
  std::size_t unanswered_ = 0;
};

void print(const Counts& counts) {
  std::printf("\"sent\": %ld, \"met\": %ld, \"late\": %ld, \"refused\": {", counts.sent, counts.met, counts.late);
  const char* comma = "";
  for (const auto& [code, n] : counts.refused) {
    std::printf("%s\"%d\": %ld", comma, code, n);
    comma = ", ";
  }
  std::printf("}");
}

int replay(int argc, char** argv) {
  const auto trace = read_trace(argv[4]);
  std::ofstream outcomes;
  if (argc == 6) outcomes.open(argv[5]);
  prctl(PR_SET_TIMERSLACK, 1UL);  // nanoseconds; else each wait may end 50 us late
  Replay replay(argv[1], argv[2], read_file(argv[3]), trace, outcomes);
  replay.run();
  outcomes.close();
  if (argc == 6 && !outcomes) throw std::runtime_error(std::string(argv[5]) + " cannot be written");
  std::sort(replay.latencies.begin(), replay.latencies.end());
  std::sort(replay.lags.begin(), replay.lags.end());
  std::printf("{");
  print(replay.all);
  std::printf(", \"p50_us\": %.1f, \"p99_us\": %.1f, \"lag_p99_us\": %.1f, \"first_error\": \"%s\", \"tenants\": {",
              quantile(replay.latencies, 0.5), quantile(replay.latencies, 0.99), quantile(replay.lags, 0.99),
              json_text(replay.first_error).c_str());
  const char* comma = "";
  for (const auto& [tenant, counts] : replay.tenants) {
    std::printf("%s\"%ld\": {", comma, tenant);
    print(counts);
    std::printf("}");
    comma = ", ";
  }
  std::printf("}}\n");
  return 0;
}

}  // namespace
}  // namespace starling::bench

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) {
    std::fprintf(stderr, "usage: starling-replay HOST:PORT METHOD REQUEST_FILE TRACE_FILE [OUTCOME_FILE]\n");
    return 2;
  }
  return starling::bench::run_program("starling-replay", [&] { return starling::bench::replay(argc, argv); });
}
