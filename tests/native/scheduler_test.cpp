#include "scheduler.h"

#include <gtest/gtest.h>

#include <random>

#include "simulation.h"
#include "test_request.h"

namespace starling {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using testing::TestRequest;

const TimePoint kNow{std::chrono::hours(1)};

// A convnet of 10 ms a frame on one slot; two in a batch take twice as long.
class SchedulerTest : public ::testing::Test {
 protected:
  SchedulerTest() {
    times_.observe(0, 10'000);
    times_.observe(1, 20'000);
  }

  TestRequest& due_in(int ms, std::int64_t rows = 1) {
    requests_.push_back(std::make_unique<TestRequest>(rows, 4));
    auto& request = *requests_.back();
    request.arrival = kNow;
    request.deadline = kNow + milliseconds(ms);
    return request;
  }

  Admission offer(Request& request, const Running& running = {1, 0}) {
    return scheduler_.offer(request, kNow, running);
  }

  void admit(Request& request) { ASSERT_TRUE(offer(request).refusal.ok()); }

  std::vector<Request*> run_next(int ms = 0) { return scheduler_.next(kNow + milliseconds(ms)).requests; }

  static constexpr std::int64_t kRows[] = {1, 2};
  ExecutionTime times_{kRows};
  SchedulerOptions options_;
  Scheduler scheduler_{options_, times_};
  std::vector<std::unique_ptr<TestRequest>> requests_;
};

using Batch = std::vector<Request*>;

TEST_F(SchedulerTest, EarliestDeadlineRunsFirst) {
  auto& late = due_in(300);
  auto& soon = due_in(100);
  admit(late);
  admit(soon);
  EXPECT_EQ(run_next(), Batch{&soon});
  EXPECT_EQ(run_next(), Batch{&late});
  EXPECT_TRUE(scheduler_.empty());
}

TEST_F(SchedulerTest, UnmeetableDeadlineIsRefusedWithTheTimeItWouldTake) {
  auto& hopeless = due_in(15);
  const auto admission = offer(hopeless, {1, 8'000});
  EXPECT_EQ(admission.refusal.reason, Reason::kDeadlineUnmeetable);
  EXPECT_EQ(admission.predicted_us, 18'000);
  EXPECT_EQ(admission.refusal.retry_delay_us, 3'000);
  EXPECT_TRUE(scheduler_.empty());
  auto& fine = due_in(19);
  EXPECT_TRUE(offer(fine, {1, 8'000}).refusal.ok());
}

TEST_F(SchedulerTest, WhoWaitsIsPromisedLessThanPredictionsSayAndWhoRunsAtOnceIsNot) {
  while (scheduler_.margin_us() < 3'000) scheduler_.learn_miss(due_in(100));
  const auto margin_us = scheduler_.margin_us();
  const auto refused = offer(due_in(20), {1, 8'000});
  EXPECT_EQ(refused.refusal.reason, Reason::kDeadlineUnmeetable);
  EXPECT_EQ(refused.predicted_us, 18'000);
  EXPECT_EQ(refused.refusal.predicted_us, 18'000 + margin_us);
  EXPECT_EQ(refused.refusal.retry_delay_us, margin_us - 2'000);
  auto& idle = due_in(11);
  EXPECT_TRUE(offer(idle, {}).refusal.ok());
  ASSERT_EQ(run_next(), Batch{&idle});
  EXPECT_TRUE(offer(due_in(22), {1, 8'000}).refusal.ok());
}

TEST_F(SchedulerTest, NewcomerMayNotBreakAnEarlierPromise) {
  auto& promised = due_in(21);
  auto& first = due_in(11);
  admit(promised);
  admit(first);
  auto& urgent = due_in(12);
  EXPECT_EQ(offer(urgent).refusal.reason, Reason::kDeadlineUnmeetable);
  // Slower ones behind are no trouble.
  auto& patient = due_in(100);
  EXPECT_TRUE(offer(patient).refusal.ok());
}

TEST_F(SchedulerTest, UrgentClassGoesFirstAndIsChargedToNobodyBelow) {
  auto& normal = due_in(50);
  auto& urgent = due_in(90);
  urgent.priority = 3;
  admit(normal);
  admit(urgent);
  EXPECT_EQ(run_next(), Batch{&urgent});
}

TEST_F(SchedulerTest, LesserClassIsNotStarvedForever) {
  auto& patient = due_in(10'000);
  admit(patient);
  auto& urgent = due_in(10'000);
  urgent.priority = 3;
  admit(urgent);
  EXPECT_EQ(scheduler_.next(kNow + microseconds(options_.starvation_us + 1)).requests, Batch{&patient});
}

TEST_F(SchedulerTest, OldBacklogDoesNotGoBeforeTheUrgentClass) {
  for (int i = 0; i < 3; ++i) admit(due_in(10'000));
  const int later_ms = static_cast<int>(options_.starvation_us / 1000) + 1;
  EXPECT_EQ(run_next(later_ms).size(), 1U);  // its class has waited for too long: one run
  auto& urgent = due_in(10'000);
  urgent.priority = 3;
  admit(urgent);
  EXPECT_EQ(run_next(later_ms + 10), Batch{&urgent});
}

TEST_F(SchedulerTest, PromisesHoldOnSeveralSlotsToo) {
  options_.slots = 2;
  Scheduler two(options_, times_);
  const Running busy{2, 20'000};
  // Three more runs on two slots: the last of them starts after 20 ms, whatever the average says.
  auto& first = due_in(20);
  auto& last = due_in(27);
  auto& between = due_in(25);
  EXPECT_TRUE(two.offer(first, kNow, busy).refusal.ok());
  EXPECT_TRUE(two.offer(last, kNow, busy).refusal.ok());
  EXPECT_EQ(two.offer(between, kNow, busy).refusal.reason, Reason::kDeadlineUnmeetable);
}

TEST_F(SchedulerTest, WhatRunsCountsForWhoeverWaitsBehindAnother) {
  options_.slots = 2;
  Scheduler two(options_, times_);
  const Running one_busy{1, 10'000};
  auto& next = due_in(100);
  auto& after = due_in(100);
  EXPECT_EQ(two.offer(next, kNow, one_busy).predicted_us, 10'000);
  EXPECT_EQ(two.offer(after, kNow, one_busy).predicted_us, 20'000);
}

TEST_F(SchedulerTest, StreamsOfTwoTenantsDoNotCollide) {
  auto& frame = due_in(1000);
  auto& newer_of_another = due_in(1000);
  frame.tenant = "a";
  newer_of_another.tenant = "b";
  frame.stream_id = newer_of_another.stream_id = "cam";
  newer_of_another.sequence = 1;
  admit(frame);
  EXPECT_EQ(offer(newer_of_another).superseded, nullptr);
  EXPECT_EQ(scheduler_.size(), 2U);
}

TEST_F(SchedulerTest, NewerFrameTakesThePlaceOfTheQueuedOneInAnotherClass) {
  auto& another = due_in(1000);
  auto& urgent = due_in(1000);
  auto& usual = due_in(1000);
  another.tenant = urgent.tenant = usual.tenant = "a";
  another.stream_id = "other cam";
  urgent.stream_id = usual.stream_id = "cam";
  urgent.priority = 3;
  usual.sequence = 1;
  admit(another);
  admit(urgent);
  EXPECT_EQ(offer(usual).superseded, &urgent);
  EXPECT_EQ(run_next(), Batch{&another});
  EXPECT_EQ(run_next(), Batch{&usual});
  EXPECT_TRUE(scheduler_.empty());
}

TEST_F(SchedulerTest, NewerFrameTakesThePlaceOfTheQueuedOne) {
  auto& old_frame = due_in(100);
  auto& new_frame = due_in(200);
  auto& stale_frame = due_in(200);
  for (auto* frame : {&old_frame, &new_frame, &stale_frame}) frame->stream_id = "cam-1";
  old_frame.sequence = 1;
  new_frame.sequence = 3;
  stale_frame.sequence = 2;
  admit(old_frame);
  EXPECT_EQ(offer(new_frame).superseded, &old_frame);
  EXPECT_EQ(offer(stale_frame).refusal.reason, Reason::kSuperseded);
  EXPECT_EQ(run_next(), Batch{&new_frame});
  EXPECT_TRUE(scheduler_.empty());
  // Nothing waits any more: an agent that starts counting again is served.
  EXPECT_TRUE(offer(stale_frame).refusal.ok());
}

TEST_F(SchedulerTest, RefusedNewerFrameLeavesTheOlderOneInPlace) {
  auto& old_frame = due_in(100);
  auto& hopeless = due_in(5);
  old_frame.stream_id = hopeless.stream_id = "cam-1";
  hopeless.sequence = 1;
  admit(old_frame);
  const auto admission = offer(hopeless);
  EXPECT_EQ(admission.refusal.reason, Reason::kDeadlineUnmeetable);
  EXPECT_EQ(admission.superseded, nullptr);
  EXPECT_EQ(run_next(), Batch{&old_frame});
}

TEST_F(SchedulerTest, ExpiredAndCancelledNeverReachABatch) {
  auto& expired = due_in(20);
  auto& cancelled = due_in(90);
  auto& alive = due_in(95);
  for (auto* r : {&expired, &cancelled, &alive}) admit(*r);
  cancelled.cancelled = true;
  const auto purged = scheduler_.purge(kNow + milliseconds(20));
  EXPECT_EQ(purged.expired, Batch{&expired});
  EXPECT_EQ(purged.cancelled, Batch{&cancelled});
  EXPECT_EQ(run_next(20), Batch{&alive});
}

TEST_F(SchedulerTest, WhatCanNotBeMetAnyMoreLeavesBeforeItsDeadline) {
  auto& doomed = due_in(30);
  admit(doomed);
  EXPECT_TRUE(scheduler_.purge(kNow + milliseconds(20)).empty());
  EXPECT_EQ(scheduler_.purge(kNow + milliseconds(21)).hopeless, Batch{&doomed});
}

TEST_F(SchedulerTest, IdleModelProbesAnEstimateThatRefusesEverything) {
  auto& first = due_in(5);
  const auto later = kNow + microseconds(options_.probe_after_us + 1);
  first.deadline = later + milliseconds(5);
  EXPECT_EQ(scheduler_.offer(first, later, Running{1, 100}).refusal.reason, Reason::kDeadlineUnmeetable);
  EXPECT_TRUE(scheduler_.offer(first, later, {}).refusal.ok());
  EXPECT_TRUE(scheduler_.purge(later).empty());
  EXPECT_EQ(scheduler_.next(later).requests, Batch{&first});
  auto& second = due_in(5);
  second.deadline = later + milliseconds(5);
  EXPECT_EQ(scheduler_.offer(second, later, {}).refusal.reason, Reason::kDeadlineUnmeetable);
}

TEST_F(SchedulerTest, ChattyTenantDoesNotDelayTheQuietOne) {
  std::vector<TestRequest*> chatty;
  for (int i = 0; i < 12; ++i) {
    chatty.push_back(&due_in(1000));
    chatty.back()->tenant = "chatty";
    admit(*chatty.back());
  }
  for (int i = 0; i < 4; ++i) run_next();  // has used up its credit
  auto& quiet = due_in(1000);
  quiet.tenant = "quiet";
  admit(quiet);
  EXPECT_EQ(run_next(), Batch{&quiet});
}

// Who asks for less than its share is no less certain of its turn because somebody else asks for more.
TEST_F(SchedulerTest, WhatIsKeptFreeForWhoIsBeyondItsShareCostsTheOthersNothing) {
  const auto of = [&](const char* tenant, int ms) -> TestRequest& {
    auto& request = due_in(ms);
    request.tenant = tenant;
    return request;
  };
  auto& within = of("chatty", 39);
  auto& beyond = of("chatty", 39);
  admit(within);
  admit(of("chatty", 39));  // has used up its credit
  admit(beyond);
  for (int i = 0; i < 40; ++i) scheduler_.learn_miss(beyond);
  ASSERT_EQ(scheduler_.margin_us(), 10'000);
  EXPECT_EQ(offer(of("chatty", 45)).refusal.predicted_us, 50'000);
  // Two runs of the chatty tenant go first; its credit allows no more.
  const auto quiet = offer(of("quiet", 39));
  EXPECT_EQ(quiet.predicted_us, 30'000);
  EXPECT_TRUE(quiet.refusal.ok());
  for (int i = 0; i < 40; ++i) scheduler_.learn_miss(within);
  EXPECT_EQ(offer(of("other", 45)).refusal.predicted_us, 50'000);
}

TEST_F(SchedulerTest, TenantThatWaitsForNothingSavesUpForAFewRequestsAtOnce) {
  const auto put = [&](const char* tenant, int ms) {
    auto& request = due_in(ms);
    request.tenant = tenant;
    const auto admission = offer(request);
    EXPECT_TRUE(admission.refusal.ok());
    return std::pair{&request, admission.predicted_us};
  };
  const auto known = put("quiet", 1000).first;
  ASSERT_EQ(run_next(), Batch{known});
  for (int i = 0; i < 30; ++i) put("chatty", 1000);
  for (int i = 0; i < 16; ++i) run_next();
  // A round is two runs long. Those of four go before what waited longer; what comes then has to take turns.
  std::vector<Request*> burst;
  for (int i = 0; i < 9; ++i) {
    const auto [request, predicted_us] = put("quiet", 1000 + i);
    burst.push_back(request);
    EXPECT_EQ(predicted_us, (i < 8 ? i + 1 : i + 3) * 10'000) << i;
  }
  for (int i = 0; i < 8; ++i) EXPECT_EQ(run_next(), Batch{burst[i]}) << i;
  for (int i = 0; i < 2; ++i) EXPECT_NE(run_next(), Batch{burst[8]}) << i;
  EXPECT_EQ(run_next(), Batch{burst[8]});
}

TEST_F(SchedulerTest, FullQueueSaysHowLongItTakesToDrain) {
  options_.bounds = {2, 1 << 20};
  Scheduler small(options_, times_);
  auto& a = due_in(1000);
  auto& b = due_in(1000);
  auto& c = due_in(1000);
  const Running busy{1, 0};
  EXPECT_TRUE(small.offer(a, kNow, busy).refusal.ok());
  EXPECT_TRUE(small.offer(b, kNow, busy).refusal.ok());
  const auto admission = small.offer(c, kNow, busy);
  EXPECT_EQ(admission.refusal.reason, Reason::kQueueFull);
  EXPECT_EQ(admission.refusal.retry_delay_us, 20'000);
}

TEST_F(SchedulerTest, WhoTakesMostOfAFullQueueMakesRoomForOthers) {
  options_.bounds = {3, 1 << 20};
  Scheduler small(options_, times_);
  const Running busy{1, 0};
  const auto put = [&](const char* tenant, std::int32_t priority, int ms) {
    auto& request = due_in(ms);
    request.tenant = tenant;
    request.priority = priority;
    return std::pair{&request, small.offer(request, kNow, busy)};
  };
  const auto sooner = put("chatty", 0, 5'000).first;
  const auto later = put("chatty", 0, 6'000).first;
  const auto last = put("chatty", 0, 7'000).first;
  EXPECT_EQ(put("chatty", 0, 8'000).second.refusal.reason, Reason::kQueueFull);
  // What could not be met anyway displaces nobody.
  EXPECT_EQ(put("quiet", 0, 1).second.displaced, nullptr);
  const auto quiet = put("quiet", 0, 1'000);
  EXPECT_TRUE(quiet.second.refusal.ok());
  EXPECT_EQ(quiet.second.displaced, last);
  EXPECT_EQ(quiet.second.displacement.reason, Reason::kQueueFull);
  EXPECT_GT(quiet.second.displacement.retry_delay_us, 0);
  // Two against one: giving it another place would turn the tables.
  EXPECT_EQ(put("quiet", 0, 1'000).second.refusal.reason, Reason::kQueueFull);
  // A more urgent class goes before any share of a lesser one.
  EXPECT_EQ(put("chatty", 3, 9'000).second.displaced, later);
  EXPECT_EQ(put("other", 3, 9'000).second.displaced, sooner);
  EXPECT_EQ(put("other", 3, 9'000).second.displaced, quiet.first);
  // A lesser class displaces nobody, however little it takes.
  EXPECT_EQ(put("new", 0, 9'000).second.refusal.reason, Reason::kQueueFull);
  EXPECT_EQ(small.size(), 3U);
}

TEST(SchedulerBatches, GrowOnlyWhilePaidForAndInTime) {
  static constexpr std::int64_t kRows[] = {1, 4, 16};
  ExecutionTime times(kRows);
  times.observe(0, 100);
  times.observe(1, 150);
  times.observe(2, 400);
  Scheduler scheduler({}, times);
  std::vector<std::unique_ptr<TestRequest>> requests;
  const auto offer = [&](int due_us) {
    requests.push_back(std::make_unique<TestRequest>(1, 4));
    requests.back()->arrival = kNow;
    requests.back()->deadline = kNow + microseconds(due_us);
    return scheduler.offer(*requests.back(), kNow, {}).refusal.ok();
  };
  for (int i = 0; i < 16; ++i) ASSERT_TRUE(offer(100'000));
  EXPECT_EQ(scheduler.next(kNow).requests.size(), 16U);
  // One member has 200 us left: a run of 400 would lose it, one of 150 does not.
  ASSERT_TRUE(offer(200));
  for (int i = 0; i < 15; ++i) ASSERT_TRUE(offer(100'000));
  EXPECT_EQ(scheduler.next(kNow).requests.size(), 4U);
}

// Both would be answered when two runs are over, the first of them one run later than alone.
TEST(SchedulerBatches, AreNeitherFormedNorWaitedForWhereTheySaveNothing) {
  static constexpr std::int64_t kRows[] = {1, 2};
  ExecutionTime times(kRows);
  times.observe(0, 20'000);
  times.observe(1, 38'400);
  SchedulerOptions options;
  options.batch_delay_us = 5'000;
  Scheduler scheduler(options, times);
  TestRequest first;
  TestRequest second;
  for (auto* request : {&first, &second}) {
    request->arrival = kNow;
    request->deadline = kNow + milliseconds(1000);
    ASSERT_TRUE(scheduler.offer(*request, kNow, {}).refusal.ok());
  }
  EXPECT_EQ(scheduler.next(kNow).requests, std::vector<Request*>{&first});
  EXPECT_EQ(scheduler.next(kNow).requests, std::vector<Request*>{&second});
}

TEST(SchedulerBatches, AreHeldBackOnlyWhileSlackAndDelayPermit) {
  static constexpr std::int64_t kRows[] = {1, 8};
  ExecutionTime times(kRows);
  times.observe(0, 100);
  times.observe(1, 150);
  SchedulerOptions options;
  options.batch_delay_us = 500;
  Scheduler scheduler(options, times);
  TestRequest patient;
  patient.arrival = kNow;
  patient.deadline = kNow + microseconds(10'000);
  ASSERT_TRUE(scheduler.offer(patient, kNow, {}).refusal.ok());
  const auto held = scheduler.next(kNow);
  EXPECT_TRUE(held.requests.empty());
  EXPECT_EQ(held.wake, kNow + microseconds(500));
  TestRequest hasty;
  hasty.arrival = kNow;
  hasty.deadline = kNow + microseconds(250);
  ASSERT_TRUE(scheduler.offer(hasty, kNow, {}).refusal.ok());
  EXPECT_EQ(scheduler.next(kNow).wake, kNow + microseconds(100));
  EXPECT_EQ(scheduler.next(kNow + microseconds(100)).requests.size(), 2U);
}

// Thousands of seeded scenarios of the scheduler in virtual time.
class Scenario {
 public:
  explicit Scenario(unsigned seed) : rng_(seed) {
    options.scheduler.slots = pick(1, 3);
    options.scheduler.batch_delay_us = pick(0, 1) * pick(0, 3000);
    options.scheduler.bounds.requests_max = static_cast<std::size_t>(pick(4, 64));
    options.bucket_rows = {1, 2, 4, 8};
    const bool convnet = pick(0, 1) == 1;
    const auto one = pick(200, 20'000);
    for (const auto rows : options.bucket_rows) {
      options.bucket_run_us.push_back(convnet ? one * rows : one + one * rows / 20);
    }
    options.noise = pick(0, 2) * 0.1;
    options.seed = seed;
    std::int64_t at = 0;
    std::vector<std::int64_t> sequence(8);
    const auto gap = one * pick(20, 300) / 100 / options.scheduler.slots;
    for (int i = 0; i < 120; ++i) {
      at += pick(0, 4) == 0 ? 0 : pick(0, 2 * gap);
      const auto stream = pick(-4, 7);
      SimulatedRequest request{at,
                               at + one * pick(1, 12) / 2,
                               static_cast<int>(pick(0, 9) / 7),
                               static_cast<int>(pick(0, 2)),
                               static_cast<int>(std::max<std::int64_t>(-1, stream)),
                               0,
                               pick(0, 5) == 0 ? pick(1, 8) : 1};
      if (stream >= 0) request.sequence = ++sequence[static_cast<std::size_t>(stream)];
      requests.push_back(request);
    }
  }

  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(rng_);
  }

  SimulationOptions options;
  std::vector<SimulatedRequest> requests;

 private:
  std::mt19937_64 rng_;
};

TEST(SchedulerScenarios, NothingExpiredRunsAndEveryRequestEndsOnce) {
  for (unsigned seed = 0; seed < 3000; ++seed) {
    Scenario scenario(seed);
    const auto outcomes = simulate(scenario.requests, scenario.options).outcomes;
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      const auto& request = scenario.requests[i];
      const auto& outcome = outcomes[i];
      ASSERT_GE(outcome.end_us, request.arrival_us) << "seed " << seed << " request " << i << " never ended";
      if (outcome.start_us >= 0) {
        ASSERT_EQ(outcome.reason, Reason::kNone);
        ASSERT_LT(outcome.start_us, request.deadline_us) << "seed " << seed << " ran expired";
        ASSERT_LE(outcome.batch_rows, 8);
      } else {
        ASSERT_NE(outcome.reason, Reason::kNone);
      }
    }
  }
}

TEST(SchedulerScenarios, NewestFrameOfAStreamNeverWaitsBehindAnOlderOne) {
  for (unsigned seed = 0; seed < 1000; ++seed) {
    Scenario scenario(seed);
    const auto outcomes = simulate(scenario.requests, scenario.options).outcomes;
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      for (std::size_t j = i + 1; j < outcomes.size(); ++j) {
        const auto& a = scenario.requests[i];
        const auto& b = scenario.requests[j];
        const bool same = a.stream >= 0 && a.stream == b.stream && a.tenant == b.tenant;
        if (!same || outcomes[i].start_us < 0 || outcomes[j].start_us < 0) continue;
        ASSERT_LE(outcomes[i].start_us, outcomes[j].start_us) << "seed " << seed;
      }
    }
  }
}

TEST(SchedulerScenarios, RequestRefusedByAnIdleMachineCouldNotHaveBeenMet) {
  for (unsigned seed = 0; seed < 1000; ++seed) {
    Scenario scenario(seed);
    const auto outcomes = simulate(scenario.requests, scenario.options).outcomes;
    // The very first request meets an idle machine: it is refused only when even one run takes too long.
    const auto& first = scenario.requests.front();
    if (outcomes.front().reason == Reason::kDeadlineUnmeetable && outcomes.front().end_us == first.arrival_us) {
      std::int64_t run_us = 0;
      for (std::size_t b = 0; b < scenario.options.bucket_rows.size(); ++b) {
        if (scenario.options.bucket_rows[b] >= first.rows) {
          run_us = scenario.options.bucket_run_us[b];
          break;
        }
      }
      ASSERT_GT(first.arrival_us + run_us, first.deadline_us) << "seed " << seed;
    }
  }
}

TEST(SchedulerScenarios, AdmittedIsAnsweredInTimeWhenRunsTakeWhatTheyAlwaysTake) {
  // One class, one tenant, one slot, no noise: the promise must hold exactly.
  for (unsigned seed = 0; seed < 2000; ++seed) {
    Scenario scenario(seed);
    scenario.options.noise = 0;
    scenario.options.scheduler.slots = 1;
    scenario.options.scheduler.batch_delay_us = 0;
    scenario.options.bucket_rows = {1};
    scenario.options.bucket_run_us.resize(1);
    for (auto& request : scenario.requests) {
      request.priority = 0;
      request.tenant = 0;
      request.rows = 1;
    }
    const auto outcomes = simulate(scenario.requests, scenario.options).outcomes;
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
      ASSERT_NE(outcomes[i].reason, Reason::kDeadlinePassed) << "seed " << seed << " request " << i;
      if (outcomes[i].reason != Reason::kNone) continue;
      ASSERT_LE(outcomes[i].end_us, scenario.requests[i].deadline_us) << "seed " << seed << " request " << i;
    }
  }
}

TEST(SchedulerScenarios, WorkIsConserved) {
  // While something waits that may run, no slot stays idle: every start follows an arrival or an end at once.
  for (unsigned seed = 0; seed < 1000; ++seed) {
    Scenario scenario(seed);
    scenario.options.scheduler.batch_delay_us = 0;
    const auto outcomes = simulate(scenario.requests, scenario.options).outcomes;
    std::vector<std::int64_t> moments;
    for (const auto& request : scenario.requests) moments.push_back(request.arrival_us);
    for (const auto& outcome : outcomes) {
      if (outcome.start_us >= 0) moments.push_back(outcome.end_us);
    }
    std::sort(moments.begin(), moments.end());
    for (const auto& outcome : outcomes) {
      if (outcome.start_us < 0) continue;
      ASSERT_TRUE(std::binary_search(moments.begin(), moments.end(), outcome.start_us)) << "seed " << seed;
    }
  }
}

TEST(SchedulerScenarios, QuietTenantKeepsItsGoodputBesideAChattyOne) {
  // 10 ms runs; the quiet tenant asks 10 times a second, the chatty one 190 times: twice what fits.
  SimulationOptions options;
  options.bucket_rows = {1};
  options.bucket_run_us = {10'000};
  std::vector<SimulatedRequest> requests;
  for (std::int64_t at = 0; at < 20'000'000; at += 5'263) requests.push_back({at, at + 100'000, 0, 1, -1, 0, 1});
  for (std::int64_t at = 3'000; at < 20'000'000; at += 100'000) requests.push_back({at, at + 100'000, 0, 2, -1, 0, 1});
  std::sort(requests.begin(), requests.end(), [](const auto& a, const auto& b) { return a.arrival_us < b.arrival_us; });
  const auto outcomes = simulate(requests, options).outcomes;
  double quiet = 0;
  double met = 0;
  double good = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const bool in_time = outcomes[i].reason == Reason::kNone && outcomes[i].end_us <= requests[i].deadline_us;
    good += in_time;
    if (requests[i].tenant != 2) continue;
    quiet += 1;
    met += in_time;
  }
  EXPECT_GE(met / quiet, 0.95);
  EXPECT_GE(good, 0.9 * 2000);
}

TEST(SchedulerScenarios, GoodputUnderOverloadIsCapacityAndFifoCollapses) {
  for (const double load : {1.0, 1.5, 2.0}) {
    SimulationOptions options;
    options.bucket_rows = {1};
    options.bucket_run_us = {10'000};
    options.noise = 0.1;
    std::vector<SimulatedRequest> requests;
    std::mt19937_64 rng(1);
    std::exponential_distribution<double> gap(load / 10'500.0);
    double at = 0;
    while (at < 30e6) {
      at += gap(rng);
      requests.push_back({static_cast<std::int64_t>(at), static_cast<std::int64_t>(at) + 100'000, 0, 0, -1, 0, 1});
    }
    const auto goodput = [&] {
      const auto outcomes = simulate(requests, options).outcomes;
      double met = 0;
      for (std::size_t i = 0; i < requests.size(); ++i) {
        met += outcomes[i].reason == Reason::kNone && outcomes[i].end_us <= requests[i].deadline_us;
      }
      return met;
    };
    const double ours = goodput();
    options.scheduler.discipline = Discipline::kFifo;
    const double fifo = goodput();
    if (load > 1) {
      EXPECT_GE(ours, 0.9 * 30e6 / 10'500) << load;
      EXPECT_GE(ours, 2 * fifo) << load;
    }
  }
}

}  // namespace
}  // namespace starling
