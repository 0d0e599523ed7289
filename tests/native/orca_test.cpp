#include "orca.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "scripted_engine.h"
#include "test_request.h"

namespace starling::predict {
namespace {

using namespace std::chrono_literals;
using starling::testing::TestRequest;

constexpr TimePoint kStart{std::chrono::hours(1)};

std::string hex(const std::string& bytes) {
  std::string out;
  for (const unsigned char byte : bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    out += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return out;
}

double metric(const OrcaReport& report, const std::string& name) {
  for (const auto& [key, value] : report.named_metrics) {
    if (key == name) return value;
  }
  return -1.0;
}

// Written by protobuf from the same values.
TEST(Orca, BytesAreThoseOfTheProto) {
  OrcaReport report;
  report.cpu_utilization = 0.5;
  report.mem_utilization = 0.25;
  report.rps = 12.5;
  report.eps = 1;
  report.utilization = 0.75;
  report.named_metrics = {{"queue_us", 1500}, {"queued", 0}};
  EXPECT_EQ(hex(encode(report)),
            "09000000000000e03f11000000000000d03f31000000000000294039000000000000f03f"
            "42130a0871756575655f75731100000000007097404208"
            "0a06717565756564"
            "49000000000000e83f");
  EXPECT_EQ(encode({}), "");
}

TEST(Orca, RatesLieBetweenTwoReadings) {
  OrcaCounters before;
  before.models = {{1, 1'000, 1}, {2, 0, 4}};
  before.finished = 100;
  before.failed = 10;
  before.answered = 90;
  before.queue_us = 5'000;
  before.compute_us = 90'000;
  before.cpu_us = 1'000'000;
  auto now = before;
  now.models = {{1, 301'000, 1}, {2, 1'000'000, 4}, {3, 100'000, 1}};
  now.finished = 140;
  now.failed = 14;
  now.answered = 110;
  now.queue_us = 25'000;
  now.compute_us = 130'000;
  now.cpu_us = 1'500'000;
  now.cores = 2.0;
  now.queued = 3;
  const auto report = compare(before, now, 500ms);
  EXPECT_DOUBLE_EQ(report.utilization, 0.6);  // the fullest, not the mean
  EXPECT_DOUBLE_EQ(report.rps, 80.0);
  EXPECT_DOUBLE_EQ(report.eps, 8.0);
  EXPECT_DOUBLE_EQ(report.cpu_utilization, 0.5);
  EXPECT_DOUBLE_EQ(metric(report, "queue_us"), 1'000.0);
  EXPECT_DOUBLE_EQ(metric(report, "compute_us"), 2'000.0);
  EXPECT_DOUBLE_EQ(metric(report, "queued"), 3.0);
}

TEST(Orca, AModelThatWasUnloadedLeavesNoNegativeRates) {
  OrcaCounters before;
  before.models = {{1, 1'000'000, 1}};
  before.finished = before.failed = before.answered = before.queue_us = 1'000;
  const auto report = compare(before, {}, 1s);
  EXPECT_EQ(report.rps, 0.0);
  EXPECT_EQ(report.eps, 0.0);
  EXPECT_EQ(report.utilization, 0.0);
  EXPECT_EQ(metric(report, "queue_us"), -1.0);
  EXPECT_EQ(metric(report, "compute_us"), -1.0);
}

TEST(Orca, NothingIsDividedByNoTime) { EXPECT_EQ(compare({}, {}, 0us).rps, 0.0); }

TEST(Orca, AReportIsMadeAnewTenTimesASecondAndCoversTheLastSecond) {
  int counted = 0;
  OrcaCounters counters;
  OrcaMeter meter([&] {
    ++counted;
    return counters;
  });
  auto last = meter.report(kStart);
  for (auto passed = 1ms; passed <= 3s; passed += 1ms) {
    if (passed <= 1s) ++counters.finished;  // a thousand in the first second, none later
    last = meter.report(kStart + passed);
  }
  EXPECT_EQ(counted, 31);
  OrcaReport quiet;
  quiet.named_metrics = {{"queued", 0}};
  EXPECT_EQ(*last, encode(quiet));
}

TEST(Orca, CountersAreThoseOfTheModels) {
  ModelConfig config;
  config.name = "echo";
  config.backend = "identity";
  config.signature = {{{"x", DataType::kFp32, {-1}}}, {{"y", DataType::kFp32, {-1}}}};
  config.buckets = {1};
  config.instances = 2;
  const auto model = std::make_shared<Model>(
      config, std::make_unique<IdentityEngine>(config.signature, IdentityEngine::Options{2, 1'000, 0}));
  model->warm_up();
  const auto before = count_for_orca({model});
  ASSERT_EQ(before.models.size(), 1U);
  EXPECT_EQ(before.models[0].count, 2);
  EXPECT_GT(before.cores, 0.0);
  EXPECT_GT(before.mem_utilization, 0.0);
  TestRequest request(1, 1, 3.0F);
  model->submit(request);
  ASSERT_TRUE(request.wait().status.ok());
  model->drain(Clock::now() + 5s);
  const auto now = count_for_orca({model});
  EXPECT_EQ(now.finished - before.finished, 1U);
  EXPECT_EQ(now.answered - before.answered, 1U);
  EXPECT_EQ(now.failed, before.failed);
  EXPECT_GE(now.models[0].busy_us - before.models[0].busy_us, 900U);
  EXPECT_GE(now.compute_us - before.compute_us, 900U);
}

TEST(Orca, ManyMayAskAtOnce) {
  OrcaMeter meter([] { return OrcaCounters{}; });
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (auto passed = 0ms; passed < 2s; passed += 10ms) ASSERT_TRUE(meter.report(kStart + passed));
    });
  }
  for (auto& thread : threads) thread.join();
}

}  // namespace
}  // namespace starling::predict
