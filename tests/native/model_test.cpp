#include "model.h"

#include <gtest/gtest.h>

#include <limits>
#include <random>

#include "identity_engine.h"
#include "test_request.h"

namespace starling {
namespace {

using std::chrono::milliseconds;
using testing::floats;
using testing::TestRequest;

ModelConfig echo_config() {
  ModelConfig config;
  config.name = "echo";
  config.backend = "identity";
  config.signature = {{{"x", DataType::kFp32, {-1}}}, {{"y", DataType::kFp32, {-1}}}};
  config.buckets = {1, 2, 4};
  return config;
}

std::unique_ptr<Model> make(const ModelConfig& config) {
  auto model = std::make_unique<Model>(
      config, std::make_unique<IdentityEngine>(
                  config.signature,
                  IdentityEngine::Options{config.instances, config.identity_delay_us, config.identity_fail_every}));
  model->warm_up();
  return model;
}

std::uint64_t finished(const Model& model, Reason reason) {
  return model.counters().finished[static_cast<std::size_t>(reason)].load();
}

TEST(Model, EveryRequestGetsItsOwnRows) {
  auto config = echo_config();
  config.identity_delay_us = 300;  // so that requests pile up and share batches
  config.instances = 2;
  auto model = make(config);
  std::mt19937 rng(3);
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (int i = 0; i < 200; ++i) {
    requests.push_back(std::make_unique<TestRequest>(1 + rng() % 4, 1 + rng() % 3, static_cast<float>(i)));
    model->submit(*requests.back());
  }
  std::uint64_t rows = 0;
  for (int i = 0; i < 200; ++i) {
    const auto& result = requests[i]->wait();
    ASSERT_TRUE(result.status.ok()) << result.status.message;
    EXPECT_EQ(floats(result.outputs[0]), requests[i]->values());
    EXPECT_EQ(result.outputs[0].shape, requests[i]->inputs[0].shape);
    EXPECT_EQ(requests[i]->completions, 1);
    rows += static_cast<std::uint64_t>(requests[i]->rows);
  }
  EXPECT_EQ(model->counters().rows.load(), rows);
  EXPECT_LT(model->counters().executions.load(), 200U);
}

TEST(Model, FullQueueRefusesWithADelay) {
  auto config = echo_config();
  config.identity_delay_us = 50'000;
  config.queue.requests_max = 2;
  config.buckets = {1};
  auto model = make(config);
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (int i = 0; i < 6; ++i) {
    requests.push_back(std::make_unique<TestRequest>());
    model->submit(*requests.back());
  }
  const auto& refused = requests.back()->wait();
  EXPECT_EQ(refused.status.reason, Reason::kQueueFull);
  EXPECT_GE(refused.status.retry_delay_us, 50'000);
  EXPECT_TRUE(requests.front()->wait().status.ok());
  for (const auto& request : requests) request->wait();
}

TEST(Model, RequestLargerThanTheQueueIsNotToldToTryAgain) {
  auto config = echo_config();
  config.queue.bytes_max = 64;
  auto model = make(config);
  TestRequest fits(1, 16);
  TestRequest large(1, 17);
  model->submit(fits);
  model->submit(large);
  EXPECT_TRUE(fits.wait().status.ok());
  EXPECT_EQ(large.wait().status.reason, Reason::kInvalidInput);
  EXPECT_EQ(large.wait().status.retry_delay_us, 0);
  EXPECT_NE(large.wait().status.message.find("68 bytes is larger than the whole queue"), std::string::npos);
}

TEST(Model, ShapesThatNoMemoryHoldsAreRefusedBeforeServing) {
  constexpr std::int64_t kHuge = std::numeric_limits<std::int32_t>::max();
  for (const Shape& dims : {Shape{kHuge}, Shape{kHuge, kHuge}, Shape{kHuge, kHuge, kHuge}}) {
    auto config = echo_config();
    config.signature = {{{"x", DataType::kFp32, dims}}, {{"y", DataType::kFp32, dims}}};
    EXPECT_THROW(make(config), Error) << to_string(dims);
  }
}

TEST(Model, ExpiredRequestIsAnsweredButNeverRun) {
  auto config = echo_config();
  config.identity_delay_us = 30'000;
  config.buckets = {1};
  auto model = make(config);
  TestRequest first;
  TestRequest late(1, 4);
  late.deadline = Clock::now() + milliseconds(5);
  model->submit(first);
  while (model->queued() != 0) std::this_thread::yield();  // the worker has it
  model->submit(late);
  EXPECT_EQ(late.wait().status.reason, Reason::kDeadlinePassed);
  EXPECT_TRUE(first.wait().status.ok());
  EXPECT_EQ(model->counters().executions.load(), 1U);
  EXPECT_EQ(model->counters().expired_executed.load(), 0U);
}

TEST(Model, CancelledRequestLeavesTheQueueAtOnce) {
  auto config = echo_config();
  config.identity_delay_us = 30'000;
  config.buckets = {1};
  auto model = make(config);
  TestRequest first;
  TestRequest cancelled;
  model->submit(first);
  while (model->queued() != 0) std::this_thread::yield();
  model->submit(cancelled);
  model->cancel(cancelled);
  EXPECT_TRUE(cancelled.done());
  EXPECT_EQ(cancelled.wait().status.reason, Reason::kCancelled);
  EXPECT_TRUE(first.wait().status.ok());
  model->cancel(first);  // too late, and harmless
  EXPECT_EQ(first.completions, 1);
}

TEST(Model, EngineFailureIsTheRequestsAnswerAndTheModelGoesOn) {
  auto config = echo_config();
  config.identity_fail_every = 2;
  auto model = make(config);
  int failed = 0;
  for (int i = 0; i < 10; ++i) {
    TestRequest request;
    model->submit(request);
    const auto& status = request.wait().status;
    if (!status.ok()) {
      ++failed;
      EXPECT_EQ(status.reason, Reason::kEngineFailed);
    }
  }
  EXPECT_EQ(failed, 5);
}

TEST(Model, DrainAnswersWhatWasAdmittedAndRefusesTheRest) {
  auto config = echo_config();
  config.identity_delay_us = 2'000;
  auto model = make(config);
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (int i = 0; i < 20; ++i) {
    requests.push_back(std::make_unique<TestRequest>());
    model->submit(*requests.back());
  }
  EXPECT_EQ(model->drain(Clock::now() + std::chrono::seconds(5)), 0U);
  for (const auto& request : requests) EXPECT_TRUE(request->wait().status.ok());
  TestRequest late;
  model->submit(late);
  EXPECT_EQ(late.wait().status.reason, Reason::kDraining);
}

TEST(Model, DrainWithoutTimeRefusesWhatWaits) {
  auto config = echo_config();
  config.identity_delay_us = 20'000;
  config.buckets = {1};
  auto model = make(config);
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (int i = 0; i < 5; ++i) {
    requests.push_back(std::make_unique<TestRequest>());
    model->submit(*requests.back());
  }
  EXPECT_GT(model->drain(Clock::now()), 0U);
  for (const auto& request : requests) {
    const auto reason = request->wait().status.reason;
    EXPECT_TRUE(reason == Reason::kNone || reason == Reason::kDraining);
    EXPECT_EQ(request->completions, 1);
  }
}

TEST(Model, RefusesWhatDoesNotFitTheSignature) {
  auto model = make(echo_config());
  const auto refusal = [&](const std::function<void(TestRequest&)>& spoil) {
    TestRequest request(2, 4);
    spoil(request);
    model->submit(request);
    const auto& status = request.wait().status;
    EXPECT_EQ(status.reason, Reason::kInvalidInput);
    return status.message;
  };
  EXPECT_NE(refusal([](auto& r) { r.inputs[0].name = "z"; }).find("wants input \"x\" FP32[?, ?], got \"z\""),
            std::string::npos);
  EXPECT_NE(refusal([](auto& r) { r.inputs[0].data_type = DataType::kInt32; }).find("got INT32[2, 4]"),
            std::string::npos);
  EXPECT_NE(refusal([](auto& r) { r.inputs[0].shape = {2, 2, 2}; }).find("got FP32[2, 2, 2]"), std::string::npos);
  EXPECT_NE(refusal([](auto& r) { r.inputs[0].shape = {2, 5}; }).find("needs 40 bytes, got 32"), std::string::npos);
  EXPECT_NE(refusal([](auto& r) { r.inputs[0].shape = {2, 0}; }).find("wants FP32[?, ?]"), std::string::npos);
  EXPECT_NE(
      refusal([](auto& r) { r.inputs[0].shape = {std::int64_t{1} << 40, std::int64_t{1} << 40}; }).find("overflows"),
      std::string::npos);
  EXPECT_NE(refusal([](auto& r) { r.inputs.push_back(r.inputs[0]); }).find("came twice"), std::string::npos);
  EXPECT_NE(refusal([](auto& r) { r.inputs.clear(); }).find("no input"), std::string::npos);
  EXPECT_NE(refusal([](auto& r) {
              r.inputs[0].shape = {0, 4};
              r.inputs[0].size_bytes = 0;
              r.inputs[0].data.clear();
            }).find("has batch 0"),
            std::string::npos);
  TestRequest too_many(5, 4);
  model->submit(too_many);
  EXPECT_NE(too_many.wait().status.message.find("has batch 5"), std::string::npos);
  EXPECT_EQ(finished(*model, Reason::kInvalidInput), 10U);
}

TEST(Model, ManyThreadsSubmitAndCancelAtOnce) {
  auto config = echo_config();
  config.instances = 2;
  config.queue.requests_max = 32;
  for (const std::int64_t delay_us : {0, 20}) {
    config.identity_delay_us = delay_us;
    auto model = make(config);
    std::vector<std::thread> threads;
    for (unsigned t = 0; t < 4; ++t) {
      threads.emplace_back([&model, t] {
        std::mt19937 rng(t);
        for (int i = 0; i < 500; ++i) {
          TestRequest request(1 + rng() % 4, 4, static_cast<float>(i));
          request.deadline = Clock::now() + milliseconds(rng() % 20);
          model->submit(request);
          if (rng() % 4 == 0) model->cancel(request);
          const auto& result = request.wait();
          if (result.status.ok()) {
            EXPECT_EQ(floats(result.outputs[0]), request.values());
          }
          EXPECT_EQ(request.completions, 1);
        }
      });
    }
    for (auto& thread : threads) thread.join();
    std::uint64_t total = 0;
    for (int i = 0; i < kReasonCount; ++i) total += finished(*model, static_cast<Reason>(i));
    EXPECT_EQ(total, 2000U);
    EXPECT_EQ(model->counters().expired_executed.load(), 0U);
  }
}

}  // namespace
}  // namespace starling
