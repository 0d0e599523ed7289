#include "model.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <random>

#include "identity_engine.h"
#include "scripted_engine.h"
#include "test_request.h"

namespace starling {
namespace {

using std::chrono::milliseconds;
using testing::floats;
using testing::ScriptedEngine;
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
  return model.stats().finished[static_cast<std::size_t>(reason)].load();
}

std::map<std::string, std::string> facts_of(const Status& status) { return {status.facts.begin(), status.facts.end()}; }

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
  EXPECT_EQ(model->stats().rows.load(), rows);
  EXPECT_LT(model->stats().executions.load(), 200U);
}

TEST(Model, WithoutABatchTheShapeIsTheWholeShapeAndRequestsRunOneByOne) {
  auto config = echo_config();
  config.signature = {{{"x", DataType::kFp32, {2, -1}}}, {{"y", DataType::kFp32, {2, -1}}}};
  config.buckets = {1};
  config.batched = false;
  auto model = make(config);
  for (int i = 0; i < 3; ++i) {
    TestRequest request(2, 3, static_cast<float>(i));
    model->submit(request);
    const auto& result = request.wait();
    ASSERT_TRUE(result.status.ok()) << result.status.message;
    EXPECT_EQ(floats(result.outputs[0]), request.values());
    EXPECT_EQ(result.outputs[0].shape, (Shape{2, 3}));
  }
  EXPECT_EQ(model->stats().rows.load(), 3U);
  TestRequest wrong(1, 3, 0);
  model->submit(wrong);
  EXPECT_NE(wrong.wait().status.message.find("wants FP32[2, ?], got FP32[1, 3]"), std::string::npos)
      << wrong.wait().status.message;
}

// Any batch takes 15 us of computing: what a tiny net is like.
class TinyEngine final : public Engine {
 public:
  explicit TinyEngine(Signature signature) : inner_(std::move(signature), {}) {}
  std::string kind() const override { return "tiny"; }
  const Signature& signature() const noexcept override { return inner_.signature(); }
  int slots() const noexcept override { return 1; }
  void submit(Batch& batch, Done done) override {
    const auto end = Clock::now() + std::chrono::microseconds(15);
    while (Clock::now() < end) {
    }
    inner_.submit(batch, std::move(done));
  }
  void close() override {}

 private:
  IdentityEngine inner_;
};

std::shared_ptr<Model> make_tiny() {
  auto model = std::make_shared<Model>(echo_config(), std::make_unique<TinyEngine>(echo_config().signature));
  model->warm_up();
  return model;
}

TEST(Model, QuickRunStaysOnTheCallersThread) {
  const auto model = make_tiny();
  ASSERT_TRUE(model->is_quick());
  TestRequest alone;
  model->submit(alone);
  ASSERT_TRUE(alone.done());
  EXPECT_EQ(alone.answered_on, std::this_thread::get_id());
}

TEST(Model, QuickRequestsOfOneRoundRunTogetherOnTheCallersThread) {
  const auto model = make_tiny();
  Round round;
  // A worker that has just been started, or wakes up by itself, may come first to some of them: then once more.
  for (int attempt = 0; attempt < 20; ++attempt) {
    std::vector<std::unique_ptr<TestRequest>> together;
    for (int i = 0; i < 50; ++i) {
      together.push_back(std::make_unique<TestRequest>(1, 4, static_cast<float>(i)));
      model->submit(*together.back());
    }
    EXPECT_TRUE(round.run());
    bool here = true;
    for (const auto& request : together) {
      const auto& result = request->wait();
      EXPECT_EQ(floats(result.outputs[0]), request->values());
      here = here && result.timing.batch_size > 1 && request->answered_on == std::this_thread::get_id();
    }
    EXPECT_FALSE(round.run());
    if (here) return;
  }
  FAIL() << "never together on this thread";
}

TEST(Model, RoundOutlivesAModelThatIsUnloadedInTheMiddle) {
  Round round;
  TestRequest request;
  {
    const auto model = make_tiny();
    model->submit(request);
    model->drain(Clock::now());
  }
  EXPECT_EQ(request.wait().status.reason, Reason::kDraining);
  round.run();
}

TEST(Model, ARoundLeavesWhatIsTooMuchForItToAWorker) {
  const auto model = make_tiny();
  Round round;
  std::vector<std::unique_ptr<TestRequest>> together;
  for (int i = 0; i < 250; ++i) {
    together.push_back(std::make_unique<TestRequest>(4, 1, 0));
    together.back()->deadline = Clock::now() + std::chrono::seconds(30);
    model->submit(*together.back());
  }
  round.run();
  for (const auto& request : together) EXPECT_TRUE(request->wait().status.ok());
  EXPECT_NE(together.back()->answered_on, std::this_thread::get_id());
}

TEST(Model, RequestsWithoutAPriorityGetTheModelsOwn) {
  auto config = echo_config();
  config.default_priority = 2;
  auto model = make(config);
  TestRequest silent(1, 1, 0);
  TestRequest urgent(1, 1, 0);
  urgent.priority = 3;
  for (auto* request : {&silent, &urgent}) {
    request->deadline = Clock::now() + std::chrono::seconds(10);
    model->submit(*request);
    ASSERT_TRUE(request->wait().status.ok());
  }
  EXPECT_EQ(model->stats().classes[0].met.load(), 0U);
  EXPECT_EQ(model->stats().classes[2].met.load(), 1U);
  EXPECT_EQ(model->stats().classes[3].met.load(), 1U);
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
  int refused = 0;
  for (const auto& request : requests) {
    const auto& status = request->wait().status;
    if (status.ok()) continue;
    ++refused;
    EXPECT_EQ(status.reason, Reason::kQueueFull);
    EXPECT_GE(status.retry_delay_us, 50'000);
  }
  EXPECT_GE(refused, 1);
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

// Runs take as long as the test says, whatever they took before.
std::unique_ptr<Model> make_settable(ModelConfig config, std::atomic<std::int64_t>& run_us) {
  config.buckets = {1};
  const auto run = [&run_us] { std::this_thread::sleep_for(std::chrono::microseconds(run_us.load())); };
  auto model = std::make_unique<Model>(config, std::make_unique<ScriptedEngine>(config.signature, 1, run));
  model->warm_up();
  return model;
}

TEST(Model, UnmeetableDeadlineIsRefusedAtOnceWithTheWaitItWouldTake) {
  auto config = echo_config();
  config.identity_delay_us = 30'000;
  config.buckets = {1};
  auto model = make(config);
  TestRequest first;
  model->submit(first);
  TestRequest hopeless;
  hopeless.deadline = Clock::now() + milliseconds(5);
  model->submit(hopeless);
  ASSERT_TRUE(hopeless.done());
  EXPECT_EQ(hopeless.wait().status.reason, Reason::kDeadlineUnmeetable);
  EXPECT_GT(hopeless.wait().status.retry_delay_us, 10'000);
  EXPECT_TRUE(first.wait().status.ok());
  EXPECT_GT(first.wait().timing.predicted_us, 25'000);
  EXPECT_EQ(model->stats().executions.load(), 1U);
}

TEST(Model, RequestThatExpiresWhileTheEngineIsSlowIsAnsweredInTimeAndNeverRun) {
  std::atomic<std::int64_t> run_us = 2'000;
  auto model = make_settable(echo_config(), run_us);
  run_us = 300'000;  // the estimate knows nothing of it yet
  TestRequest first;
  model->submit(first);
  while (model->queued() != 0) std::this_thread::yield();
  TestRequest late;
  late.deadline = Clock::now() + milliseconds(30);
  model->submit(late);
  const auto reason = late.wait().status.reason;
  EXPECT_GT(model->margin_us(), 0);
  EXPECT_FALSE(first.done());  // nobody had to wait for the engine to hear it
  EXPECT_EQ(reason, Reason::kDeadlinePassed);
  EXPECT_TRUE(first.wait().status.ok());
  EXPECT_EQ(model->stats().executions.load(), 1U);
  EXPECT_EQ(model->stats().expired_executed.load(), 0U);
}

TEST(Model, RequestThatCanNotBeMetAnyMoreSaysWhatItWouldHaveTaken) {
  // A machine that is busy elsewhere for as long as the deadline leaves makes it expire instead: then once more.
  for (int attempt = 0; attempt < 10; ++attempt) {
    std::atomic<std::int64_t> run_us = 60'000;
    auto model = make_settable(echo_config(), run_us);
    run_us = 300'000;  // the estimate knows nothing of it yet
    TestRequest first;
    model->submit(first);
    while (model->queued() != 0) std::this_thread::yield();
    TestRequest late;
    late.deadline = Clock::now() + milliseconds(340);  // when the first is over, less than one run is left
    model->submit(late);
    const auto& status = late.wait().status;
    first.wait();
    if (status.reason == Reason::kDeadlinePassed) continue;
    ASSERT_EQ(status.reason, Reason::kDeadlineUnmeetable);
    auto facts = facts_of(status);
    EXPECT_GE(std::stoll(facts["predicted_us"]), std::stoll(facts["queue_us"]) + 60'000);
    EXPECT_LT(std::stoll(facts["left_us"]), 60'000);
    return;
  }
  FAIL() << "always expired";
}

TEST(Model, AnswersThatComeLaterThanPredictedAreAdmittedWithAMargin) {
  std::atomic<std::int64_t> run_us = 2'000;
  auto model = make_settable(echo_config(), run_us);
  EXPECT_EQ(model->margin_us(), 0);
  run_us = 300'000;
  TestRequest late;
  model->submit(late);
  const auto& result = late.wait();
  EXPECT_GT(result.timing.total_us, result.timing.predicted_us);
  EXPECT_GT(model->margin_us(), 0);
  EXPECT_LE(model->margin_us(), model->run_times()[0].high_us);
}

TEST(Model, CallersThatGoAwayTellOfBrokenPromisesOnlyNearTheirDeadline) {
  std::atomic<std::int64_t> run_us = 50'000;
  auto model = make_settable(echo_config(), run_us);
  run_us = 1'000'000;  // whoever comes after the first waits
  TestRequest first;
  model->submit(first);
  while (model->queued() != 0) std::this_thread::yield();
  const auto high = std::chrono::microseconds(model->run_times()[0].high_us);
  TestRequest early;
  early.deadline = Clock::now() + std::chrono::seconds(60);
  model->submit(early);
  model->cancel(early);
  EXPECT_EQ(early.wait().status.reason, Reason::kCancelled);
  EXPECT_EQ(model->margin_us(), 0);
  TestRequest late;
  late.deadline = Clock::now() + 4 * high;
  model->submit(late);
  EXPECT_FALSE(late.done());
  std::this_thread::sleep_until(late.deadline - high / 2);
  model->cancel(late);
  late.wait();
  EXPECT_GT(model->margin_us(), 0);
  EXPECT_FALSE(first.done());
  EXPECT_TRUE(first.wait().status.ok());
}

TEST(Model, WithoutADeadlineTheModelsOwnCounts) {
  std::atomic<std::int64_t> run_us = 60'000;
  auto config = echo_config();
  config.default_timeout_us = 20'000;
  auto model = make_settable(config, run_us);
  // An idle model tries the first one whatever it expects of it, if it comes to that in time.
  TestRequest silent;
  model->submit(silent);
  const auto& result = silent.wait();
  EXPECT_TRUE(result.status.ok() || result.status.reason == Reason::kDeadlinePassed) << result.status.message;
  EXPECT_LT(result.timing.slack_us, 0);
  EXPECT_GT(result.timing.slack_us + result.timing.total_us, 0);
  EXPECT_EQ(model->stats().classes[0].missed.load(), 1U);
  EXPECT_EQ(model->stats().classes[0].lateness.count(), result.status.ok() ? 1U : 0U);
  EXPECT_EQ(model->stats().classes[0].slack.count(), 0U);
  TestRequest patient;
  patient.deadline = Clock::now() + std::chrono::seconds(60);
  model->submit(patient);
  EXPECT_TRUE(patient.wait().status.ok());
  EXPECT_GT(patient.wait().timing.slack_us, 0);
}

TEST(Model, FailuresInARowEndInRefusalsUntilATryOfThemSucceeds) {
  std::atomic<bool> fails = false;
  const auto run = [&fails] {
    if (fails) throw std::runtime_error("out of luck");
  };
  auto config = echo_config();
  Model model(config, std::make_unique<ScriptedEngine>(config.signature, 1, run));
  model.warm_up();
  fails = true;
  TimePoint last;
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(model.healthy());
    last = Clock::now();
    TestRequest failed;
    model.submit(failed);
    EXPECT_EQ(failed.wait().status.reason, Reason::kEngineFailed);
  }
  EXPECT_FALSE(model.healthy());
  const auto runs = model.stats().executions.load();
  TestRequest refused;
  model.submit(refused);
  if (Clock::now() - last < std::chrono::seconds(1)) {  // else it was the try
    EXPECT_EQ(refused.wait().status.reason, Reason::kModelNotReady);
    EXPECT_EQ(refused.wait().status.retry_delay_us, 1'000'000);
    EXPECT_EQ(model.stats().executions.load(), runs);
  }
  const auto tries = model.stats().executions.load();
  fails = false;
  const auto until = Clock::now() + std::chrono::seconds(10);
  while (!model.healthy() && Clock::now() < until) {
    TestRequest again;
    model.submit(again);
    again.wait();
    std::this_thread::yield();
  }
  EXPECT_TRUE(model.healthy());
  EXPECT_EQ(model.stats().executions.load(), tries + 1);
}

TEST(Model, HungRunIsGivenUpAndTheModelSaysSoUntilItIsBack) {
  std::atomic<std::int64_t> run_us = 1'000;
  auto config = echo_config();
  config.watchdog_us = 50'000;
  auto model = make_settable(config, run_us);
  run_us = 400'000;
  TestRequest hung;
  model->submit(hung);
  EXPECT_EQ(hung.wait().status.reason, Reason::kEngineFailed);
  EXPECT_GE(std::stoll(facts_of(hung.wait().status).at("compute_us")), 50'000);
  EXPECT_FALSE(model->healthy());
  TestRequest refused;
  model->submit(refused);
  EXPECT_EQ(refused.wait().status.reason, Reason::kModelNotReady);
  EXPECT_EQ(model->stats().hung.load(), 1U);
  run_us = 1'000;
  const auto until = Clock::now() + std::chrono::seconds(5);
  while (!model->healthy() && Clock::now() < until) std::this_thread::yield();
  TestRequest back;
  model->submit(back);
  EXPECT_TRUE(back.wait().status.ok());
  EXPECT_EQ(hung.completions, 1);
}

TEST(Model, HungSlotIsNotCountedOnWhenRequestsAreAdmitted) {
  std::atomic<bool> hang_next = false;
  std::atomic<bool> hang_on = true;
  const auto run = [&] {
    std::this_thread::sleep_for(milliseconds(200));
    if (hang_next.exchange(false)) hang_on.wait(true);
  };
  auto config = echo_config();
  config.watchdog_us = 800'000;
  config.instances = 2;
  config.buckets = {1};
  Model model(config, std::make_unique<ScriptedEngine>(config.signature, config.instances, run));
  model.warm_up();
  hang_next = true;
  TestRequest hung;
  model.submit(hung);
  EXPECT_EQ(hung.wait().status.reason, Reason::kEngineFailed);
  while (!model.healthy()) {  // the other slot answers, as soon as a request is let through
    TestRequest probe;
    model.submit(probe);
    probe.wait();
    std::this_thread::sleep_for(milliseconds(1));
  }
  TestRequest running;
  TestRequest next;
  next.deadline = Clock::now() + milliseconds(320);  // for one run, not for two, whenever the first begins
  model.submit(running);
  while (model.queued() != 0) std::this_thread::yield();
  model.submit(next);
  const bool refused_at_once = next.done();
  EXPECT_EQ(next.wait().status.reason, Reason::kDeadlineUnmeetable);
  EXPECT_TRUE(refused_at_once);
  EXPECT_TRUE(running.wait().status.ok());
  EXPECT_FALSE(hang_next);
  hang_on = false;
  hang_on.notify_all();
}

TEST(Model, EngineThatThrowsFailsTheBatchAndNothingElse) {
  struct Nothing {};
  std::atomic<int> kind = 0;
  const auto run = [&kind] {
    if (kind == 1) throw std::runtime_error("out of luck");
    if (kind == 2) throw Nothing{};
  };
  for (const std::int64_t delay_us : {0, 100}) {  // on the caller's thread, and on a worker
    kind = 0;
    auto config = echo_config();
    config.batch_delay_us = delay_us;
    Model model(config, std::make_unique<ScriptedEngine>(config.signature, 1, run));
    model.warm_up();
    for (const auto& [thrown, says] : {std::pair{1, "out of luck"}, std::pair{2, "no exception"}}) {
      kind = thrown;
      TestRequest request;
      model.submit(request);
      EXPECT_EQ(request.wait().status.reason, Reason::kEngineFailed);
      EXPECT_NE(request.wait().status.message.find(says), std::string::npos) << request.wait().status.message;
      EXPECT_EQ(request.completions, 1);
    }
    kind = 0;
    TestRequest next;
    model.submit(next);
    EXPECT_TRUE(next.wait().status.ok());
    EXPECT_EQ(model.drain(Clock::now() + std::chrono::seconds(1)), 0U);
  }
}

TEST(Model, RefusalsSayWhereTheTimeWent) {
  std::atomic<bool> closed = false;
  std::atomic<bool> waits = false;
  std::atomic<bool> fails = false;
  const auto run = [&] {
    waits = true;
    closed.wait(true);
    std::this_thread::sleep_for(milliseconds(2));
    if (fails) throw std::runtime_error("out of luck");
  };
  auto config = echo_config();
  config.buckets = {4};  // so that the two share a batch whatever the runs took
  Model model(config, std::make_unique<ScriptedEngine>(config.signature, 1, run));
  model.warm_up();
  closed = true;
  waits = false;
  TestRequest alone;
  TestRequest one;
  TestRequest two(2);
  two.timing = {1, 2, 3, 4, 5, 6, 7};  // as a model that failed before has left it
  model.submit(alone);
  while (!waits) std::this_thread::yield();
  model.submit(one);
  model.submit(two);
  fails = true;
  closed = false;
  closed.notify_all();
  for (auto [request, rows] : {std::pair{&alone, 1}, {&one, 3}, {&two, 3}}) {
    const auto& status = request->wait().status;
    ASSERT_EQ(status.reason, Reason::kEngineFailed);
    const auto facts = facts_of(status);
    const auto number = [&](const char* name) { return std::stoll(facts.at(name)); };
    EXPECT_EQ(number("batch_size"), rows);
    EXPECT_GE(number("compute_us"), 2'000);
    EXPECT_GE(number("batch_wait_us"), 0);
    EXPECT_GE(number("total_us"), number("queue_us") + number("compute_us"));
    EXPECT_EQ(number("predicted_us"), request->wait().timing.predicted_us);
    EXPECT_GE(number("predicted_us"), 2'000);
  }
  model.drain(Clock::now());
  TestRequest late;
  late.timing = {1, 2, 3, 4, 5, 6, 7};
  late.predicted_us = 8;
  model.submit(late);
  auto facts = facts_of(late.wait().status);
  EXPECT_EQ(facts.erase("queue_us") + facts.erase("total_us"), 2U);
  EXPECT_EQ(facts, (std::map<std::string, std::string>{{"model", "echo"}}));
}

// Goes from model to model until one answers it, as a request with alternatives does.
class Wanderer final : public Request {
 public:
  Wanderer(std::vector<Model*> ladder, std::string payer, std::atomic<int>& deepest)
      : ladder_(std::move(ladder)), deepest_(deepest) {
    tenant = std::move(payer);
    size_bytes = sizeof(value_);
    inputs.push_back(
        {"x", DataType::kFp32, {1, 1}, {{reinterpret_cast<const std::uint8_t*>(&value_), sizeof(value_)}}, size_bytes});
    arrival = Clock::now();
  }

  void go_on() { ladder_[next_++]->submit(*this); }

  void complete(Result&& result) noexcept override {
    thread_local int depth = 0;
    ++depth;
    for (int seen = deepest_; seen < depth && !deepest_.compare_exchange_weak(seen, depth);) {
    }
    if (!result.status.ok() && next_ < ladder_.size()) {
      go_on();
    } else {
      ++completions;
    }
    --depth;
  }

  std::atomic<int> completions = 0;

 private:
  const std::vector<Model*> ladder_;
  std::atomic<int>& deepest_;
  std::size_t next_ = 0;
  float value_ = 0;
};

TEST(Model, RequestsThatDisplaceOneAnotherFromModelToModelDoNotPileUpOnOneStack) {
  std::atomic<bool> hold = false;
  std::atomic<int> deepest = 0;
  auto config = echo_config();
  config.buckets = {1};
  config.queue.requests_max = 2;
  config.batch_delay_us = 1;  // runs are on workers, so that the test may hold them
  config.watchdog_us = 60'000'000;
  std::vector<std::unique_ptr<Model>> models;
  std::vector<std::unique_ptr<Wanderer>> wanderers;
  for (int m = 0; m < 16; ++m) {
    const auto run = [&hold] { hold.wait(true); };
    models.push_back(std::make_unique<Model>(config, std::make_unique<ScriptedEngine>(config.signature, 1, run)));
    models.back()->warm_up();
  }
  auto closed = make(config);
  closed->drain(Clock::now());
  hold = true;
  const auto add = [&](std::size_t first, const std::string& tenant) {
    std::vector<Model*> ladder;
    for (auto m = first; m < models.size(); ++m) ladder.push_back(models[m].get());
    ladder.insert(ladder.end(), 50, closed.get());
    wanderers.push_back(std::make_unique<Wanderer>(std::move(ladder), tenant, deepest));
    wanderers.back()->go_on();
  };
  for (std::size_t m = 0; m < models.size(); ++m) {
    add(m, "runs");
    while (models[m]->queued() != 0) std::this_thread::yield();
    for (int i = 0; i < 2; ++i) add(m, "tenant " + std::to_string(m));
    EXPECT_EQ(models[m]->queued(), 2U);
  }
  EXPECT_EQ(deepest, 0);  // nobody was refused
  add(0, "another");
  EXPECT_EQ(deepest, 1);
  for (const auto& model : models) EXPECT_EQ(finished(*model, Reason::kQueueFull), 1U);
  EXPECT_EQ(finished(*closed, Reason::kDraining), 50U);
  hold = false;
  hold.notify_all();
  for (const auto& model : models) EXPECT_EQ(model->drain(Clock::now() + std::chrono::seconds(5)), 0U);
  for (const auto& wanderer : wanderers) EXPECT_EQ(wanderer->completions, 1);
}

TEST(Model, NewerFrameAnswersTheOlderOneAsSuperseded) {
  auto config = echo_config();
  config.identity_delay_us = 30'000;
  config.buckets = {1};
  auto model = make(config);
  TestRequest running;
  TestRequest old_frame;
  TestRequest new_frame(1, 4, 7.F);
  old_frame.stream_id = new_frame.stream_id = "camera";
  new_frame.sequence = 1;
  model->submit(running);
  while (model->queued() != 0) std::this_thread::yield();
  model->submit(old_frame);
  model->submit(new_frame);
  EXPECT_EQ(old_frame.wait().status.reason, Reason::kSuperseded);
  EXPECT_TRUE(running.wait().status.ok());
  EXPECT_EQ(floats(new_frame.wait().outputs[0]), new_frame.values());
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

// A model whose runs wait at a gate: what is submitted meanwhile runs together.
struct Gate {
  explicit Gate(const ModelConfig& config)
      : model(config, std::make_unique<ScriptedEngine>(config.signature, 1, [this] {
                waits = true;
                closed.wait(true);
                std::this_thread::sleep_for(milliseconds(1));  // no quick model, which would run on this thread
              })) {
    model.warm_up();
    closed = true;
    waits = false;
  }

  void run_together(TestRequest& alone, const std::vector<TestRequest*>& together) {
    model.submit(alone);
    while (!waits) std::this_thread::yield();
    for (TestRequest* request : together) model.submit(*request);
    closed = false;
    closed.notify_all();
  }

  std::atomic<bool> closed{false};
  std::atomic<bool> waits{false};
  Model model;
};

// Makes a request's input one of BYTES, two elements a row; borrows them.
void set_texts(TestRequest& request, const std::string& texts) {
  auto& tensor = request.inputs[0];
  tensor.data_type = DataType::kBytes;
  tensor.shape = {request.rows, 2};
  tensor.data = {{reinterpret_cast<const std::uint8_t*>(texts.data()), texts.size()}};
  tensor.size_bytes = texts.size();
}

std::string text_of(const OutputTensor& output) {
  return {reinterpret_cast<const char*>(output.buffer->data()) + output.offset, output.size};
}

TEST(Model, RequestsOfBytesShareABatchAndGetTheirOwnElements) {
  auto config = echo_config();
  config.signature = {{{"x", DataType::kBytes, {-1}}}, {{"y", DataType::kBytes, {-1}}}};
  config.buckets = {1, 8};
  Gate gate(config);
  using std::string_literals::operator""s;
  const std::string one = "\1\0\0\0a\0\0\0\0"s;
  const std::string two = "\0\0\0\0\3\0\0\0xyz\2\0\0\0bc\0\0\0\0"s;
  TestRequest first(1);
  TestRequest second(2);
  set_texts(first, one);
  set_texts(second, two);
  TestRequest alone(1);
  set_texts(alone, one);
  gate.run_together(alone, {&first, &second});
  EXPECT_EQ(text_of(first.wait().outputs[0]), one);
  EXPECT_EQ(text_of(second.wait().outputs[0]), two);
  EXPECT_EQ(second.wait().outputs[0].shape, (Shape{2, 2}));
  EXPECT_EQ(text_of(alone.wait().outputs[0]), one);
  EXPECT_EQ(first.wait().timing.batch_size, 3);
  EXPECT_EQ(second.wait().timing.batch_size, 3);
  TestRequest cut(1);
  const std::string short_of_one = one.substr(0, one.size() - 1);
  set_texts(cut, short_of_one);
  gate.model.submit(cut);
  EXPECT_NE(cut.wait().status.message.find("\"x\" of shape [1, 2] is no tensor of BYTES: element 1 of 2 has no length"),
            std::string::npos)
      << cut.wait().status.message;
}

// Bytes elsewhere that may be gone when they are wanted.
class Elsewhere final : public ByteSource, public ByteSink {
 public:
  explicit Elsewhere(std::string bytes) : bytes_(std::move(bytes)) {}
  Status read(std::span<std::uint8_t> out) const override {
    if (bytes_.size() < out.size()) return {Reason::kInvalidInput, "the bytes have gone", 0, {}};
    std::memcpy(out.data(), bytes_.data(), out.size());
    return {};
  }
  Status write(const TensorSpec& output, std::span<const std::uint8_t> bytes) const override {
    if (bytes_.empty()) return {Reason::kInvalidInput, "no room for " + output.name, 0, {}};
    written = {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
    return {};
  }
  mutable std::string written;

 private:
  std::string bytes_;
};

TEST(Model, BytesThatLieElsewhereAreReadIntoTheBatchAndWrittenOutOfIt) {
  auto config = echo_config();
  config.buckets = {1, 8};
  Gate gate(config);
  const std::string ones(16, '\1');
  const auto there = std::make_shared<Elsewhere>(ones);
  const auto gone = std::make_shared<Elsewhere>("");
  TestRequest here(2, 4, 7);
  TestRequest elsewhere(1, 4);
  TestRequest missing(1, 4);
  TestRequest unwritten(1, 4, 9);
  elsewhere.inputs[0].data.clear();
  elsewhere.inputs[0].source = there;
  elsewhere.sinks = {there};
  missing.inputs[0].data.clear();
  missing.inputs[0].source = gone;
  unwritten.sinks = {gone};
  TestRequest alone(1, 4);
  gate.run_together(alone, {&missing, &here, &elsewhere, &unwritten});
  EXPECT_EQ(floats(here.wait().outputs[0]), here.values());
  const auto& written = elsewhere.wait();
  ASSERT_TRUE(written.status.ok()) << written.status.message;
  EXPECT_EQ(written.outputs[0].buffer, nullptr);
  EXPECT_EQ(written.outputs[0].size, 16U);
  EXPECT_EQ(there->written, ones);
  EXPECT_EQ(written.timing.batch_size, 4);
  EXPECT_TRUE(alone.wait().status.ok());
  EXPECT_EQ(missing.wait().status.message, "the bytes have gone");
  EXPECT_EQ(unwritten.wait().status.message, "no room for y");
  EXPECT_EQ(finished(gate.model, Reason::kInvalidInput), 2U);
}

TEST(Model, ABatchWithNothingToReadIsNotRunAndItsSlotIsFreeAgain) {
  auto model = make(echo_config());
  const auto runs = model->stats().executions.load();
  for (int i = 0; i < 3; ++i) {
    TestRequest missing(1, 4);
    missing.inputs[0].data.clear();
    missing.inputs[0].source = std::make_shared<Elsewhere>("");
    model->submit(missing);
    EXPECT_EQ(missing.wait().status.reason, Reason::kInvalidInput);
  }
  EXPECT_EQ(model->stats().executions.load(), runs);
  EXPECT_TRUE(model->healthy());
  TestRequest good(1, 4, 3);
  model->submit(good);
  EXPECT_EQ(floats(good.wait().outputs[0]), good.values());
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
    EXPECT_EQ(model->stats().expired_executed.load(), 0U);
  }
}

// Two slots, and answers that always take longer than the objective allows.
ModelConfig hopeless_config(AutopilotMode mode) {
  auto config = echo_config();
  config.identity_delay_us = 2000;
  config.instances = 2;
  config.batch_delay_us = 3000;
  config.autopilot = mode;
  config.slo_p99_us = 500;
  return config;
}

// Keeps the model busy until `enough` or for ten seconds; true when it was enough.
template <class Enough>
bool keep_busy(Model& model, const Enough& enough) {
  const auto end = Clock::now() + std::chrono::seconds(10);
  while (!enough() && Clock::now() < end) {
    std::vector<std::unique_ptr<TestRequest>> requests;
    for (int i = 0; i < 8; ++i) {
      requests.push_back(std::make_unique<TestRequest>(1, 1, 0.0F));
      model.submit(*requests.back());
    }
    for (auto& request : requests) request->wait();
  }
  return enough();
}

TEST(Model, AnAutopilotThatActsMovesItsQueueWhileOthersWork) {
  auto model = make(hopeless_config(AutopilotMode::kAct));
  ASSERT_NE(model->pilot(), nullptr);
  const auto before = model->setting();
  EXPECT_EQ(before, (QueueSetting{3000, 2, 2, 0}));
  EXPECT_TRUE(keep_busy(*model, [&] { return model->setting() != before; }));
  const auto records = model->pilot()->take_records();
  ASSERT_FALSE(records.empty());
  for (const auto& record : records) {
    auto state = record.before;
    EXPECT_EQ(decide(model->pilot()->policy(), state, record.seen).text, record.decision.text);
  }
  EXPECT_GT(model->stats().finished[0].load(), 0U);
}

TEST(Model, AnAutopilotThatAdvisesChangesNothing) {
  auto model = make(hopeless_config(AutopilotMode::kAdvise));
  const auto before = model->setting();
  EXPECT_TRUE(keep_busy(*model, [&] {
    return model->pilot()->status().last.decision.setting != before && model->pilot()->status().last.number > 0;
  }));
  EXPECT_EQ(model->setting(), before);
}

TEST(Model, WithoutAnObjectiveOffOrInArrivalOrderNothingIsSteered) {
  auto config = hopeless_config(AutopilotMode::kAct);
  config.slo_p99_us = 0;
  EXPECT_EQ(make(config)->pilot(), nullptr);
  config.slo_p99_us = 500;
  config.autopilot = AutopilotMode::kOff;
  EXPECT_EQ(make(config)->pilot(), nullptr);
  config.autopilot = AutopilotMode::kAct;
  config.discipline = Discipline::kFifo;
  EXPECT_EQ(make(config)->pilot(), nullptr);
}

}  // namespace
}  // namespace starling
