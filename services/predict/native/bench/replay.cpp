// Replays a trace of arrivals in real time, whether or not earlier ones are answered (open loop), and says what
// became of each: answered before its deadline, later, or refused.
// usage: starling-replay HOST:PORT METHOD REQUEST_FILE TRACE_FILE [OUTCOME_FILE]
//
// A line of the trace is: arrival_us deadline_us tenant stream sequence priority
//   arrival_us from the start, ascending; deadline_us from the arrival; tenant, stream: a number, -1 for none.
// OUTCOME_FILE gets a line for each request, in the order of their ends: arrival_us took_us status_code.
// Prints one JSON object: sent, met, late, refused (by status code), p50_us and p99_us of those met, tenants (the same
// counts by tenant), lag_p99_us (how late requests were sent: the quality of this measurement).
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

struct Arrival {
  long at_us = 0;
  long deadline_us = 0;
  long tenant = -1;
  long stream = -1;
  long sequence = 0;
  long priority = 0;
};

struct Call {
  const Arrival* arrival = nullptr;
  grpc::ClientContext context;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader;
  grpc::ByteBuffer response;
  grpc::Status status;
  Clock::time_point due;
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

double quantile(std::vector<double>& values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1))];
}

void print(const Counts& counts) {
  std::printf("\"sent\": %ld, \"met\": %ld, \"late\": %ld, \"refused\": {", counts.sent, counts.met, counts.late);
  const char* comma = "";
  for (const auto& [code, n] : counts.refused) {
    std::printf("%s\"%d\": %ld", comma, code, n);
    comma = ", ";
  }
  std::printf("}");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5 && argc != 6) {
    std::fprintf(stderr, "usage: starling-replay HOST:PORT METHOD REQUEST_FILE TRACE_FILE [OUTCOME_FILE]\n");
    return 2;
  }
  const std::string method = argv[2];
  std::ifstream request_file(argv[3], std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(request_file), {}};
  std::vector<Arrival> trace;
  std::ifstream trace_file(argv[4]);
  for (Arrival a; trace_file >> a.at_us >> a.deadline_us >> a.tenant >> a.stream >> a.sequence >> a.priority;) {
    trace.push_back(a);
  }
  if (bytes.empty() || trace.empty() || !trace_file.eof()) {
    std::fprintf(stderr, "starling-replay: %s or %s is empty or malformed\n", argv[3], argv[4]);
    return 1;
  }
  std::ofstream outcomes;
  if (argc == 6) outcomes.open(argv[5]);
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  const auto channel = grpc::CreateCustomChannel(argv[1], grpc::InsecureChannelCredentials(), arguments);
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
    std::fprintf(stderr, "starling-replay: no server at %s\n", argv[1]);
    return 1;
  }
  grpc::GenericStub stub(channel);
  const grpc::Slice shared(bytes.data(), bytes.size());
  grpc::CompletionQueue queue;
  Counts all;
  std::map<long, Counts> tenants;
  std::vector<double> latencies;
  std::vector<double> lags;
  std::size_t live = 0;

  const auto begin = Clock::now() + std::chrono::milliseconds(50);
  const auto send = [&](const Arrival& arrival) {
    auto* call = new Call;  // NOLINT: comes back through the completion queue
    call->arrival = &arrival;
    call->due = begin + microseconds(arrival.at_us);
    const auto left = call->due + microseconds(arrival.deadline_us) - Clock::now();
    call->context.set_deadline(std::chrono::system_clock::now() +
                               std::chrono::duration_cast<std::chrono::system_clock::duration>(left));
    if (arrival.tenant >= 0) call->context.AddMetadata("x-tenant", std::to_string(arrival.tenant));
    const auto extra = fields_of(arrival);
    const grpc::Slice slices[] = {shared, grpc::Slice(extra.data(), extra.size())};
    call->reader =
        stub.PrepareUnaryCall(&call->context, method, grpc::ByteBuffer(slices, extra.empty() ? 1 : 2), &queue);
    call->reader->StartCall();
    call->reader->Finish(&call->response, &call->status, call);
    lags.push_back(std::chrono::duration<double, std::micro>(Clock::now() - call->due).count());
    ++live;
  };
  const auto take = [&](void* tag) {
    const std::unique_ptr<Call> call(static_cast<Call*>(tag));
    --live;
    const auto took = std::chrono::duration<double, std::micro>(Clock::now() - call->due).count();
    if (outcomes.is_open()) {
      outcomes << call->arrival->at_us << ' ' << static_cast<long>(took) << ' ' << call->status.error_code() << '\n';
    }
    for (auto* counts : {&all, &tenants[call->arrival->tenant]}) {
      ++counts->sent;
      if (!call->status.ok()) {
        ++counts->refused[call->status.error_code()];
      } else if (took <= static_cast<double>(call->arrival->deadline_us)) {
        ++counts->met;
      } else {
        ++counts->late;
      }
    }
    if (call->status.ok() && took <= static_cast<double>(call->arrival->deadline_us)) latencies.push_back(took);
  };

  std::size_t next = 0;
  while (next < trace.size() || live > 0) {
    while (next < trace.size() && begin + microseconds(trace[next].at_us) <= Clock::now()) send(trace[next++]);
    auto wait = std::chrono::system_clock::now() + std::chrono::seconds(10);
    if (next < trace.size()) {
      const auto gap = begin + microseconds(trace[next].at_us) - Clock::now();
      wait = std::chrono::system_clock::now() + std::chrono::duration_cast<std::chrono::system_clock::duration>(gap);
    }
    void* tag = nullptr;
    bool ok = false;
    const auto got = queue.AsyncNext(&tag, &ok, wait);
    if (got == grpc::CompletionQueue::GOT_EVENT) take(tag);
    if (got == grpc::CompletionQueue::SHUTDOWN) break;
  }
  outcomes.close();
  if (argc == 6 && !outcomes) {
    std::fprintf(stderr, "starling-replay: %s cannot be written\n", argv[5]);
    return 1;
  }
  std::printf("{");
  print(all);
  std::printf(", \"p50_us\": %.1f, \"p99_us\": %.1f, \"lag_p99_us\": %.1f, \"tenants\": {", quantile(latencies, 0.5),
              quantile(latencies, 0.99), quantile(lags, 0.99));
  const char* comma = "";
  for (const auto& [tenant, counts] : tenants) {
    std::printf("%s\"%ld\": {", comma, tenant);
    print(counts);
    std::printf("}");
    comma = ", ";
  }
  std::printf("}}\n");
}
