#include "sequences.h"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <random>

#include "model.h"
#include "test_request.h"

namespace starling {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using testing::floats;
using testing::TestRequest;

constexpr TimePoint kStart{};

TimePoint at(std::int64_t us) { return kStart + microseconds(us); }

SequenceOptions one_float() {
  SequenceOptions options;
  options.states = {{{"h", DataType::kFp32, {1}}, "h_out"}};
  options.idle_us = 1000;
  options.sequences_max = 2;
  return options;
}

std::unique_ptr<TestRequest> step(const std::string& sequence, bool start = false, bool end = false, float value = 0,
                                  const std::string& tenant = {}) {
  auto request = std::make_unique<TestRequest>(1, 1, value);
  request->sequence_id = sequence;
  request->sequence_start = start;
  request->sequence_end = end;
  request->tenant = tenant;
  return request;
}

float state_of(const Request& request) {
  float value = 0;
  std::memcpy(&value, request.sequence_state->state[0].data(), sizeof(value));
  return value;
}

void leave_behind(const Request& request, float value) {
  std::memcpy(request.sequence_state->next[0].data(), &value, sizeof(value));
}

TEST(Sequences, StateAdvancesWhenAStepIsAnsweredAndOnlyThen) {
  const auto options = one_float();
  Sequences sequences(options);
  auto first = step("a", true);
  ASSERT_TRUE(sequences.enter(*first, at(0)).ok());
  EXPECT_EQ(state_of(*first), 0);
  leave_behind(*first, 1);
  EXPECT_EQ(sequences.leave(*first, true, at(0)), nullptr);
  auto failing = step("a");
  ASSERT_TRUE(sequences.enter(*failing, at(1)).ok());
  EXPECT_EQ(state_of(*failing), 1);
  leave_behind(*failing, 2);
  sequences.leave(*failing, false, at(1));
  auto again = step("a");
  ASSERT_TRUE(sequences.enter(*again, at(2)).ok());
  EXPECT_EQ(state_of(*again), 1);
  sequences.leave(*again, true, at(2));
}

TEST(Sequences, StepsOfOneSequenceTakeTurnsInArrivalOrder) {
  const auto options = one_float();
  Sequences sequences(options);
  auto first = step("a", true);
  auto second = step("a");
  auto third = step("a");
  second->deadline = at(500);  // no order but arrival counts
  for (auto* request : {first.get(), second.get(), third.get()}) ASSERT_TRUE(sequences.enter(*request, at(0)).ok());
  EXPECT_TRUE(sequences.has_turn(*first));
  EXPECT_FALSE(sequences.has_turn(*second));
  EXPECT_EQ(sequences.ahead_of(*third), 2U);
  EXPECT_EQ(sequences.waiting(), 2U);
  EXPECT_EQ(sequences.next_deadline(), at(500));
  EXPECT_EQ(sequences.leave(*first, true, at(1)), second.get());
  EXPECT_EQ(sequences.next_deadline(), TimePoint::max());
  EXPECT_EQ(sequences.leave(*second, true, at(1)), third.get());
  EXPECT_EQ(sequences.leave(*third, true, at(1)), nullptr);
  EXPECT_EQ(sequences.waiting(), 0U);
  EXPECT_EQ(sequences.waiting_bytes(), 0U);
}

TEST(Sequences, UnknownEndedAndIdleSequencesAreNotFound) {
  const auto options = one_float();
  Sequences sequences(options);
  auto stranger = step("a");
  auto status = sequences.enter(*stranger, at(0));
  EXPECT_EQ(status.reason, Reason::kSequenceNotFound);
  EXPECT_EQ(canonical_code(status.reason), 3);
  EXPECT_NE(status.message.find("\"a\""), std::string::npos);
  auto only = step("a", true, true);
  ASSERT_TRUE(sequences.enter(*only, at(0)).ok());
  sequences.leave(*only, true, at(0));
  EXPECT_EQ(sequences.open(), 0U);
  EXPECT_EQ(sequences.enter(*stranger, at(0)).reason, Reason::kSequenceNotFound);

  auto begin = step("a", true);
  ASSERT_TRUE(sequences.enter(*begin, at(0)).ok());
  sequences.leave(*begin, true, at(100));
  auto in_time = step("a");
  ASSERT_TRUE(sequences.enter(*in_time, at(1099)).ok());
  sequences.sweep(at(10'000));  // one that is at work is not idle
  sequences.leave(*in_time, true, at(10'000));
  EXPECT_EQ(sequences.enter(*stranger, at(11'000)).reason, Reason::kSequenceNotFound);
  EXPECT_EQ(sequences.expired(), 1U);
}

TEST(Sequences, AStartThatIsNotAnsweredLeavesNoSequence) {
  const auto options = one_float();
  Sequences sequences(options);
  auto old = step("a", true);
  ASSERT_TRUE(sequences.enter(*old, at(0)).ok());
  sequences.leave(*old, true, at(0));
  auto start = step("a", true);
  auto behind = step("a");
  ASSERT_TRUE(sequences.enter(*start, at(1)).ok());
  ASSERT_TRUE(sequences.enter(*behind, at(1)).ok());
  EXPECT_EQ(sequences.leave(*start, false, at(1)), behind.get());
  EXPECT_EQ(sequences.check(*behind).reason, Reason::kSequenceNotFound);
  sequences.leave(*behind, false, at(1));
  EXPECT_EQ(sequences.enter(*behind, at(2)).reason, Reason::kSequenceNotFound);  // and the old one is gone as well

  ASSERT_TRUE(sequences.enter(*old, at(3)).ok());
  sequences.leave(*old, true, at(3));
  sequences.refused(*start);  // before it could enter
  EXPECT_EQ(sequences.enter(*behind, at(4)).reason, Reason::kSequenceNotFound);
}

TEST(Sequences, WhoArrivedBeforeANewStartGoesOnWithTheOldState) {
  const auto options = one_float();
  Sequences sequences(options);
  auto start = step("a", true);
  auto second = step("a");
  auto restart = step("a", true);
  ASSERT_TRUE(sequences.enter(*start, at(0)).ok());
  ASSERT_TRUE(sequences.enter(*second, at(0)).ok());
  ASSERT_TRUE(sequences.enter(*restart, at(0)).ok());
  EXPECT_TRUE(sequences.has_turn(*restart));
  EXPECT_EQ(sequences.open(), 1U);
  leave_behind(*start, 5);
  EXPECT_EQ(sequences.leave(*start, true, at(1)), second.get());
  EXPECT_EQ(state_of(*second), 5);
  EXPECT_EQ(state_of(*restart), 0);
  sequences.leave(*second, true, at(1));
  sequences.leave(*restart, true, at(1));
  auto next = step("a");
  ASSERT_TRUE(sequences.enter(*next, at(2)).ok());
  EXPECT_EQ(state_of(*next), 0);
  sequences.leave(*next, true, at(2));
  sequences.sweep(at(1'000'000));
  EXPECT_EQ(sequences.open(), 0U);
}

TEST(Sequences, TenantsDoNotShareAName) {
  const auto options = one_float();
  Sequences sequences(options);
  auto ours = step("a", true, false, 0, "one");
  ASSERT_TRUE(sequences.enter(*ours, at(0)).ok());
  sequences.leave(*ours, true, at(0));
  auto theirs = step("a", false, false, 0, "two");
  EXPECT_EQ(sequences.enter(*theirs, at(0)).reason, Reason::kSequenceNotFound);
}

TEST(Sequences, NoMoreAreKeptThanTheBound) {
  const auto options = one_float();
  Sequences sequences(options);
  std::vector<std::unique_ptr<TestRequest>> starts;
  for (const auto* name : {"a", "b", "c"}) starts.push_back(step(name, true));
  ASSERT_TRUE(sequences.enter(*starts[0], at(0)).ok());
  ASSERT_TRUE(sequences.enter(*starts[1], at(0)).ok());
  auto status = sequences.enter(*starts[2], at(10));
  EXPECT_EQ(status.reason, Reason::kSequencesFull);
  EXPECT_EQ(canonical_code(status.reason), 8);
  EXPECT_EQ(status.retry_delay_us, 1000);
  sequences.leave(*starts[0], true, at(10));
  sequences.leave(*starts[1], true, at(20));
  EXPECT_TRUE(sequences.enter(*starts[2], at(1010)).ok());  // the longest idle one has just been forgotten
  sequences.leave(*starts[2], true, at(1010));
  EXPECT_EQ(sequences.open(), 2U);
  auto again = step("b", true);  // a restart needs no more room
  EXPECT_TRUE(sequences.enter(*again, at(1011)).ok());
  sequences.leave(*again, true, at(1011));
}

TEST(Sequences, RoomIsSharedBetweenTenants) {
  auto options = one_float();
  options.sequences_max = 4;
  Sequences sequences(options);
  std::vector<std::unique_ptr<TestRequest>> steps;
  const auto start = [&](const char* name, const char* tenant, bool stays) {
    steps.push_back(step(name, true, false, 0, tenant));
    auto status = sequences.enter(*steps.back(), at(static_cast<std::int64_t>(steps.size())));
    if (status.ok() && !stays) sequences.leave(*steps.back(), true, at(static_cast<std::int64_t>(steps.size())));
    return status.reason;
  };
  const auto lives = [&](const char* name, const char* tenant) {
    auto next = step(name, false, false, 0, tenant);
    if (!sequences.enter(*next, at(100)).ok()) return false;
    sequences.leave(*next, true, at(100));
    return true;
  };
  EXPECT_EQ(start("busy", "greedy", true), Reason::kNone);  // at work, so nobody takes its place
  for (const auto* name : {"a", "b", "c"}) EXPECT_EQ(start(name, "greedy", false), Reason::kNone);
  EXPECT_EQ(start("d", "greedy", false), Reason::kSequencesFull);
  EXPECT_EQ(start("x", "modest", false), Reason::kNone);           // in the place of a
  EXPECT_EQ(start("y", "modest", false), Reason::kNone);           // in the place of b
  EXPECT_EQ(start("z", "modest", false), Reason::kSequencesFull);  // it has as many as the other by now
  EXPECT_FALSE(lives("a", "greedy"));
  EXPECT_FALSE(lives("b", "greedy"));
  EXPECT_TRUE(lives("c", "greedy"));
  EXPECT_TRUE(lives("x", "modest"));
  EXPECT_EQ(sequences.displaced(), 2U);
  EXPECT_EQ(sequences.open(), 4U);
  sequences.leave(*steps[0], true, at(101));
  sequences.sweep(at(5000));
  EXPECT_EQ(sequences.open(), 0U);
}

TEST(Sequences, ThoseThatWaitCanLeaveWithoutATurn) {
  const auto options = one_float();
  Sequences sequences(options);
  std::vector<std::unique_ptr<TestRequest>> steps;
  for (int i = 0; i < 4; ++i) {
    steps.push_back(step("a", i == 0));
    steps.back()->deadline = i == 2 ? at(50) : at(100 + i);
    ASSERT_TRUE(sequences.enter(*steps.back(), at(0)).ok());
  }
  EXPECT_FALSE(sequences.remove(*steps[0]));  // it has its turn
  EXPECT_TRUE(sequences.remove(*steps[1]));
  EXPECT_FALSE(sequences.remove(*steps[1]));
  EXPECT_EQ(sequences.purge(at(50)), std::vector<Request*>{steps[2].get()});
  EXPECT_EQ(sequences.leave(*steps[0], true, at(51)), steps[3].get());
  sequences.leave(*steps[3], true, at(51));
  EXPECT_TRUE(sequences.drain().empty());
}

// y = h + x and h' = 2 h + x + 1: what comes out depends on every step before and on their order.
float advance(float& state, float x) {
  const auto y = state + x;
  state = std::fmod(2 * state + x + 1, 1000.0F);
  return y;
}

class AccumulatingEngine final : public Engine {
 public:
  AccumulatingEngine(Signature signature, int slots, int fail_every = 0)
      : signature_(std::move(signature)), slots_(slots), fail_every_(fail_every), outputs_(slots) {}
  std::string kind() const override { return "accumulating"; }
  const Signature& signature() const noexcept override { return signature_; }
  int slots() const noexcept override { return slots_; }
  void close() override {}

  void submit(Batch& batch, Done done) override {
    const auto rows = static_cast<std::size_t>(batch.bucket);
    auto& [y, h] = outputs_[static_cast<std::size_t>(batch.slot)];
    y.assign(rows, 0);
    h.assign(rows, 0);
    const auto* x = reinterpret_cast<const float*>(batch.inputs[0].data);
    const auto* state = reinterpret_cast<const float*>(batch.inputs[1].data);
    for (std::size_t r = 0; r < rows; ++r) {
      h[r] = state[r];
      y[r] = advance(h[r], x[r]);
    }
    const Shape shape = batch.inputs[0].shape;
    batch.outputs = {{reinterpret_cast<const std::uint8_t*>(y.data()), shape},
                     {reinterpret_cast<const std::uint8_t*>(h.data()), shape}};
    std::this_thread::sleep_for(run.load());
    const bool fails = fail_every_ != 0 && ++runs_ % fail_every_ == 0;
    done(fails ? "as asked" : "");
  }

  std::atomic<microseconds> run{microseconds(0)};

 private:
  Signature signature_;
  int slots_;
  int fail_every_;
  std::atomic<int> runs_{0};
  std::vector<std::pair<std::vector<float>, std::vector<float>>> outputs_;
};

ModelConfig accumulating(std::vector<std::int64_t> buckets, int instances) {
  ModelConfig config;
  config.name = "sum";
  config.backend = "test";
  config.signature = {{{"x", DataType::kFp32, {1}}}, {{"y", DataType::kFp32, {1}}}};
  config.sequences = one_float();
  config.sequences.idle_us = 60'000'000;
  config.sequences.sequences_max = 64;
  config.buckets = std::move(buckets);
  config.instances = instances;
  config.default_timeout_us = 60'000'000;
  return config;
}

// A model that believes its runs to take `run`: those that take less than 50 us run on their caller's thread.
struct Served {
  explicit Served(ModelConfig config, microseconds run = microseconds(0), int fail_every = 0) {
    auto made = std::make_unique<AccumulatingEngine>(with_states(config.signature, config.sequences), config.instances,
                                                     fail_every);
    engine = made.get();
    engine->run = run;
    model = std::make_unique<Model>(std::move(config), std::move(made));
    if (fail_every == 0) model->warm_up();
  }
  AccumulatingEngine* engine;
  std::unique_ptr<Model> model;
};

float answer_of(TestRequest& request) {
  const auto& result = request.wait();
  if (!result.status.ok()) throw std::runtime_error(result.status.message);
  if (result.outputs.size() != 1) throw std::runtime_error("states are not answered");
  return floats(result.outputs[0]).at(0);
}

// Random schedules of random sequences, many steps of each under way at once.
void run_interleaved(std::uint32_t seed, const std::vector<std::int64_t>& buckets, int instances, microseconds run) {
  Served served(accumulating(buckets, instances), run);
  std::mt19937 rng(seed);
  struct Kept {
    float state = 0;
    bool started = false;
  };
  std::vector<Kept> alone(1 + rng() % 12);
  std::vector<std::pair<std::unique_ptr<TestRequest>, float>> sent;
  for (int i = 0; i < 60; ++i) {
    auto& kept = alone[rng() % alone.size()];
    const bool start = !kept.started || rng() % 16 == 0;
    const bool end = rng() % 16 == 0;
    if (start) kept.state = 0;
    const auto x = static_cast<float>(rng() % 100);
    auto request = step(std::to_string(&kept - alone.data()), start, end, x);
    const auto expected = advance(kept.state, x);
    kept.started = !end;
    served.model->submit(*request);
    // An end takes effect when it is answered; what comes before its answer belongs to the sequence that ends.
    if (end) request->wait();
    sent.emplace_back(std::move(request), expected);
  }
  for (auto& [request, expected] : sent) EXPECT_EQ(answer_of(*request), expected) << "seed " << seed;
  served.model->drain(Clock::now() + milliseconds(100));
}

TEST(StatefulModel, InterleavedSequencesEqualEachRunAlone) {
  for (std::uint32_t seed = 0; seed < 12; ++seed) {
    run_interleaved(seed, {1, 2, 8}, 1 + static_cast<int>(seed % 3), microseconds(seed % 4 == 0 ? 0 : 200));
  }
}

// The same with everything that can happen to a step: what is answered is what the answered ones before it left.
void run_with_faults(std::uint32_t seed) {
  std::mt19937 rng(seed);
  Served served(accumulating({1, 2, 4}, 1 + static_cast<int>(seed % 2)), microseconds(100),
                3 + static_cast<int>(rng() % 5));
  std::vector<std::vector<std::unique_ptr<TestRequest>>> sent(5);
  for (int i = 0; i < 120; ++i) {
    const auto s = rng() % sent.size();
    const bool start = sent[s].empty() || rng() % 10 == 0;
    sent[s].push_back(step(std::to_string(s), start, false, static_cast<float>(rng() % 100)));
    auto& request = *sent[s].back();
    if (rng() % 6 == 0) request.deadline = Clock::now() + microseconds(rng() % 2000);
    served.model->submit(request);
    if (rng() % 8 == 0) served.model->cancel(*sent[s][rng() % sent[s].size()]);
    if (rng() % 8 == 0) std::this_thread::sleep_for(microseconds(rng() % 500));
  }
  std::map<Reason, int> reasons;
  for (auto& steps : sent) {
    float state = 0;
    bool lives = false;
    for (auto& request : steps) {
      const auto& status = request->wait().status;
      ++reasons[status.reason];
      EXPECT_EQ(request->completions, 1);
      if (request->sequence_start) {
        lives = status.ok();
        state = 0;
      }
      EXPECT_LE(status.ok(), lives) << "seed " << seed;
      if (status.ok()) {
        EXPECT_EQ(answer_of(*request), advance(state, request->values()[0])) << "seed " << seed;
      }
    }
  }
  EXPECT_GT(reasons[Reason::kNone], 0);
  EXPECT_GT(reasons.size(), 2U);
  served.model->drain(Clock::now() + milliseconds(100));
  EXPECT_EQ(served.model->queued(), 0U);
}

TEST(StatefulModel, FaultsDoNotAdvanceTheStateWhateverTheSchedule) {
  for (std::uint32_t seed = 0; seed < 16; ++seed) run_with_faults(seed);
}

TEST(StatefulModel, AModelWithoutBatchDimensionKeepsStateToo) {
  auto config = accumulating({1}, 1);
  config.batched = false;
  Served served(config);
  float state = 0;
  for (int i = 0; i < 5; ++i) {
    auto request = step("a", i == 0, false, static_cast<float>(i));
    request->inputs[0].shape = {1};  // the whole shape
    served.model->submit(*request);
    EXPECT_EQ(answer_of(*request), advance(state, static_cast<float>(i)));
  }
}

TEST(StatefulModel, SequencesShareBatchesAndStepsOfOneDoNot) {
  Served served(accumulating({1, 8}, 1), milliseconds(5));
  std::vector<std::unique_ptr<TestRequest>> steps;
  for (int s = 0; s < 8; ++s) {
    for (int i = 0; i < 2; ++i) steps.push_back(step(std::to_string(s), i == 0, false, 1));
  }
  for (auto& request : steps) served.model->submit(*request);
  std::int32_t largest = 0;
  for (auto& request : steps) {
    EXPECT_EQ(answer_of(*request), request->sequence_start ? 1 : 3);
    largest = std::max(largest, request->wait().timing.batch_size);
  }
  EXPECT_GT(largest, 1);
  EXPECT_LT(served.model->stats().executions.load(), steps.size());
}

TEST(StatefulModel, CallersOfManyThreadsGetTheirOwnSequences) {
  Served served(accumulating({1, 4}, 2));
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      float state = 0;
      for (int i = 0; i < 100; ++i) {
        auto request = step(std::to_string(c), i == 0, i == 99, static_cast<float>(i + c));
        const auto expected = advance(state, static_cast<float>(i + c));
        served.model->submit(*request);
        if (answer_of(*request) != expected) ++wrong;
      }
    });
  }
  for (auto& caller : callers) caller.join();
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(served.model->sequences().open, 0U);
  EXPECT_EQ(served.model->sequences().started, 4U);
}

TEST(StatefulModel, WhatFailsDoesNotAdvanceTheState) {
  Served served(accumulating({1}, 1), microseconds(0), 3);
  float state = 0;
  int failed = 0;
  for (int i = 0; i < 30; ++i) {
    auto request = step("a", i == 0, false, static_cast<float>(i));
    served.model->submit(*request);
    if (!request->wait().status.ok()) {
      ++failed;
      EXPECT_EQ(request->wait().status.reason, Reason::kEngineFailed);
      continue;
    }
    EXPECT_EQ(answer_of(*request), advance(state, static_cast<float>(i)));
  }
  EXPECT_EQ(failed, 10);
}

TEST(StatefulModel, AStepThatComesTooLateOrIsCancelledDoesNotAdvanceTheState) {
  Served served(accumulating({1}, 1), microseconds(100));
  auto first = step("a", true, false, 1);
  served.model->submit(*first);
  EXPECT_EQ(answer_of(*first), 1);  // the state is 2 now
  served.engine->run = milliseconds(40);
  auto late = step("a", false, false, 1);
  late->deadline = Clock::now() + milliseconds(20);
  served.model->submit(*late);
  EXPECT_EQ(late->wait().status.reason, Reason::kDeadlinePassed) << late->wait().status.message;
  auto cancelled = step("a", false, false, 1);
  auto waiting = step("a", false, false, 1);
  auto behind = step("a", false, false, 1);
  for (auto* request : {cancelled.get(), waiting.get(), behind.get()}) served.model->submit(*request);
  served.model->cancel(*waiting);
  EXPECT_EQ(waiting->wait().status.reason, Reason::kCancelled);
  served.model->cancel(*cancelled);
  EXPECT_EQ(cancelled->wait().status.reason, Reason::kCancelled);
  EXPECT_EQ(answer_of(*behind), 3);
}

TEST(StatefulModel, ARequestThatIsNotAStepIsRefusedWithWhatIsMissing) {
  Served served(accumulating({1, 2}, 1));
  const auto refusal = [&](std::unique_ptr<TestRequest> request) {
    served.model->submit(*request);
    return request->wait().status;
  };
  auto none = refusal(step(""));
  EXPECT_EQ(none.reason, Reason::kInvalidInput);
  EXPECT_NE(none.message.find("set sequence_id"), std::string::npos);
  auto two_rows = std::make_unique<TestRequest>(2, 1);
  two_rows->sequence_id = "a";
  EXPECT_NE(refusal(std::move(two_rows)).message.find("a step is one row, got 2"), std::string::npos);
  auto streamed = step("a", true);
  streamed->stream_id = "camera";
  EXPECT_NE(refusal(std::move(streamed)).message.find("leave stream_id out"), std::string::npos);
  EXPECT_EQ(refusal(step("a")).reason, Reason::kSequenceNotFound);
}

TEST(StatefulModel, LineOfASequenceIsBoundedLikeTheQueue) {
  auto config = accumulating({1}, 1);
  config.queue.requests_max = 3;
  Served served(config, milliseconds(30));
  std::vector<std::unique_ptr<TestRequest>> steps;
  for (int i = 0; i < 8; ++i) {
    steps.push_back(step("a", i == 0, false, 1));
    served.model->submit(*steps.back());
  }
  std::map<Reason, int> reasons;
  for (auto& request : steps) ++reasons[request->wait().status.reason];
  EXPECT_EQ(reasons[Reason::kNone] + reasons[Reason::kQueueFull], 8);
  EXPECT_GE(reasons[Reason::kNone], 3);  // one more when the first runs already
  EXPECT_LE(reasons[Reason::kNone], 4);
}

TEST(StatefulModel, IdleSequencesAreForgottenWithoutAnybodyAsking) {
  auto config = accumulating({1}, 1);
  config.sequences.idle_us = 1000;
  Served served(config);
  auto start = step("a", true);
  served.model->submit(*start);
  start->wait();
  const auto until = Clock::now() + std::chrono::seconds(5);
  while (served.model->sequences().open != 0 && Clock::now() < until) std::this_thread::yield();
  EXPECT_EQ(served.model->sequences().expired, 1U);
}

TEST(StatefulModel, ThoseInLineAreAnsweredBeforeTheModelGoes) {
  Served served(accumulating({1}, 1), milliseconds(5));
  std::vector<std::unique_ptr<TestRequest>> steps;
  for (int i = 0; i < 5; ++i) {
    steps.push_back(step("a", i == 0, false, 1));
    served.model->submit(*steps.back());
  }
  EXPECT_EQ(served.model->drain(Clock::now() + std::chrono::seconds(5)), 0U);
  for (auto& request : steps) EXPECT_TRUE(request->wait().status.ok()) << request->wait().status.message;
  auto later = step("a");
  served.model->submit(*later);
  EXPECT_EQ(later->wait().status.reason, Reason::kDraining);
}

TEST(StatefulModel, ThoseInLineHearThatTheModelHasGone) {
  Served served(accumulating({1}, 1), milliseconds(30));
  std::vector<std::unique_ptr<TestRequest>> steps;
  for (int i = 0; i < 5; ++i) {
    steps.push_back(step("a", i == 0, false, 1));
    served.model->submit(*steps.back());
  }
  served.model->drain(Clock::now());
  int answered = 0;
  for (auto& request : steps) {
    const auto& status = request->wait().status;
    if (status.ok()) ++answered;
    EXPECT_TRUE(status.ok() || status.reason == Reason::kDraining) << status.message;
    EXPECT_EQ(request->completions, 1);
  }
  EXPECT_LE(answered, 2);
}

}  // namespace
}  // namespace starling
