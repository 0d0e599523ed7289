#include "orca_service.h"

#include <gtest/gtest.h>

#include <atomic>

#include "grpc_caller.h"
#include "transport/grpc_server.h"

namespace starling::predict {
namespace {

using namespace std::chrono_literals;
using starling::testing::Caller;
using starling::testing::eventually;
using starling::testing::framed;

constexpr const char* kMethod = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";
constexpr const char* kInvalidArgument = "3";
constexpr const char* kResourceExhausted = "8";
constexpr const char* kUnavailable = "14";

// OrcaLoadReportRequest.
std::string request(std::int64_t seconds, std::int64_t nanos) {
  wire::Writer interval;
  interval.varint(1, static_cast<std::uint64_t>(seconds));
  interval.varint(2, static_cast<std::uint64_t>(nanos));
  wire::Writer out;
  out.message(1, interval);
  return framed(out.str());
}

std::string report_of(int queued) {
  OrcaReport report;
  report.named_metrics = {{"queued", queued}};
  return encode(report);
}

class OrcaServed : public ::testing::Test {
 protected:
  OrcaServed() {
    transport::Methods methods;
    service.add_methods(methods);
    methods.unknown = methods.by_name.begin()->second;
    transport::GrpcServerOptions options;
    options.address = "127.0.0.1:0";
    options.connection.streams_max = 4096;
    options.threads = 2;
    server.emplace(options, std::move(methods), nullptr);
  }

  std::string refusal(const std::string& body) {
    Caller caller(server->port());
    const auto& reply = caller.finish(caller.start(kMethod, body));
    EXPECT_TRUE(reply.messages().empty());
    return reply.headers.at("grpc-status");
  }

  std::atomic<std::uint64_t> queued{7};
  OrcaMeter meter{[this] {
    OrcaCounters counters;
    counters.queued = queued;
    return counters;
  }};
  OrcaService service{meter, "edge-1"};
  std::optional<transport::GrpcServer> server;
};

TEST_F(OrcaServed, EachReportSaysHowItIsThen) {
  Caller caller(server->port());
  const auto id = caller.start(kMethod, request(0, 0));
  ASSERT_TRUE(caller.wait([&] { return caller.reply(id).messages().size() == 1; }));
  EXPECT_EQ(caller.reply(id).messages().front(), report_of(7));
  queued = 8;
  ASSERT_TRUE(caller.wait([&] { return caller.reply(id).messages().back() == report_of(8); }));
}

TEST_F(OrcaServed, TheFirstReportComesAtOnceAndTheNextWhenItWasAskedFor) {
  Caller caller(server->port());
  const auto rarely = caller.start(kMethod, request(3'600, 0));
  const auto often = caller.start(kMethod, request(0, 100'000'000));
  ASSERT_TRUE(caller.wait([&] { return caller.reply(often).messages().size() == 5; }));
  EXPECT_EQ(caller.reply(rarely).messages().size(), 1U);
}

TEST_F(OrcaServed, NobodyIsToldMoreOftenThanTheFloor) {
  const auto began = Clock::now();
  Caller caller(server->port());
  const auto id = caller.start(kMethod, request(0, 1));
  ASSERT_TRUE(caller.wait([&] { return caller.reply(id).messages().size() >= 4; }));
  EXPECT_GE(Clock::now() - began, 3 * OrcaService::kIntervalMin);
}

TEST_F(OrcaServed, AnIntervalOfCenturiesIsALongOne) {
  Caller caller(server->port());
  const auto id = caller.start(kMethod, request(315'576'000'000, 999'999'999));
  EXPECT_TRUE(caller.wait([&] { return caller.reply(id).messages().size() == 1; }));
}

TEST_F(OrcaServed, RequestsMayNameCostsAndUnknownFields) {
  wire::Writer out;
  out.text(2, "tokens");
  out.varint(9, 1);
  Caller caller(server->port());
  const auto id = caller.start(kMethod, framed(out.str()));
  EXPECT_TRUE(caller.wait([&] { return !caller.reply(id).messages().empty(); }));
}

TEST_F(OrcaServed, MalformedRequestsAreRefused) {
  for (const auto& body : {request(-1, 0), request(0, -1), request(0, 1'000'000'000), request(315'576'000'001, 0),
                           framed("\x0a\x05\x08"), framed("\x0a\x02\x08\xff"), framed("\xff"), std::string()}) {
    EXPECT_EQ(refusal(body), kInvalidArgument);
  }
}

TEST_F(OrcaServed, ASecondMessageEndsTheStream) {
  Caller caller(server->port());
  const auto& reply = caller.finish(caller.start(kMethod, request(0, 0) + request(0, 0)));
  EXPECT_EQ(reply.headers.at("grpc-status"), kInvalidArgument);
}

TEST_F(OrcaServed, StreamsEndWhenTheNodeDrainsAndNoneBeginLater) {
  Caller caller(server->port());
  const auto told = caller.start(kMethod, request(3'600, 0));
  const auto silent = caller.start(kMethod, "", false);
  ASSERT_TRUE(caller.wait([&] { return !caller.reply(told).messages().empty(); }));
  // The silent one came on the same connection; a third tells that it has been seen.
  const auto third = caller.start(kMethod, request(0, 0));
  ASSERT_TRUE(caller.wait([&] { return !caller.reply(third).messages().empty(); }));
  service.close();
  for (const auto id : {told, silent, third}) {
    EXPECT_EQ(caller.finish(id).headers.at("grpc-status"), kUnavailable);
  }
  EXPECT_EQ(refusal(request(0, 0)), kUnavailable);
}

TEST_F(OrcaServed, StreamsAreBoundedAndTheirPlacesAreFreeAgain) {
  Caller caller(server->port());
  std::vector<std::int32_t> open;
  for (std::size_t i = 0; i < OrcaService::kStreamsMax; ++i) open.push_back(caller.start(kMethod, request(3'600, 0)));
  ASSERT_TRUE(caller.wait([&] { return !caller.reply(open.back()).messages().empty(); }));
  EXPECT_EQ(refusal(request(0, 0)), kResourceExhausted);
  caller.reset(open.front());
  EXPECT_TRUE(eventually([&] {
    Caller other(server->port());
    const auto id = other.start(kMethod, request(3'600, 0));
    other.wait([&] { return other.reply(id).closed || !other.reply(id).messages().empty(); });
    return !other.reply(id).closed;
  }));
}

TEST_F(OrcaServed, ACallerThatDoesNotReadMissesWhatIsOld) {
  Caller caller(server->port(), 0);  // no room for a message
  const auto slow = caller.start(kMethod, request(0, 0));
  Caller other(server->port());
  const auto id = other.start(kMethod, request(0, 0));
  ASSERT_TRUE(other.wait([&] { return other.reply(id).messages().size() >= 5; }));
  queued = 8;
  ASSERT_TRUE(other.wait([&] { return other.reply(id).messages().back() == report_of(8); }));
  caller.widen(slow, 1 << 20);
  ASSERT_TRUE(caller.wait([&] { return caller.reply(slow).messages().size() >= 2; }));
  EXPECT_EQ(caller.reply(slow).messages()[1], report_of(8));
}

TEST_F(OrcaServed, StreamsOfManyThreadsEndWhileTheyAreTold) {
  std::vector<std::thread> threads;
  std::atomic<int> told{0};
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      Caller caller(server->port());
      std::vector<std::int32_t> ids;
      for (int i = 0; i < 20; ++i) ids.push_back(caller.start(kMethod, request(0, 0)));
      caller.wait([&] { return !caller.reply(ids.back()).messages().empty(); });
      ++told;
      for (std::size_t i = 0; i < ids.size(); i += 2) caller.reset(ids[i]);
      for (std::size_t i = 1; i < ids.size(); i += 2) {
        EXPECT_EQ(caller.finish(ids[i]).headers.at("grpc-status"), kUnavailable);
      }
    });
  }
  EXPECT_TRUE(eventually([&] { return told == 4; }));
  service.close();
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace starling::predict
