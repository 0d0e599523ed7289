// What to change so that a model keeps its latency objective at the least cost. Pure: values in, a decision out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "execution_time.h"

namespace starling {

enum class AutopilotMode : std::uint8_t { kOff, kAdvise, kAct };

// What a model's queue may do. Every field has a maximum in the configuration, `bound_us` in the objective.
struct QueueSetting {
  std::int64_t batch_delay_us = 0;  // longest wait of a batch for more
  std::int64_t largest_bucket = 0;  // index
  std::int64_t slots = 1;           // batches that run at once
  std::int64_t bound_us = 0;        // longest predicted time to an answer that is admitted; 0: only deadlines bound it

  bool operator==(const QueueSetting&) const = default;
};

// The objective, and what the configuration allows.
struct AutopilotPolicy {
  std::int64_t p99_us = 0;
  double miss_rate = 0.01;
  std::vector<std::int64_t> bucket_rows;  // ascending
  QueueSetting most;                      // `bound_us` is not read
};

// What was seen since the base of a window: the last second or two, or the last change if that is nearer.
//
// `p99_us` is of requests that were answered. One that is refused has no latency: a queue that refuses nearly all of
// them looks fast, which is why the misses count beside it.
struct AutopilotObservation {
  std::int64_t at_us = 0;  // since the model was loaded
  std::int64_t window_us = 0;
  QueueSetting applied;
  std::int64_t answered = 0;
  std::int64_t late = 0;          // of these, after their deadline
  std::int64_t refused = 0;       // unmeetable, displaced, expired or no room; not what callers took back or replaced
  std::int64_t p99_us = 0;        // arrival to answer; 0 when nothing was answered
  std::int64_t fresh_p99_us = 0;  // the same of those that came after the last change, which alone show its effect
  std::int64_t rows = 0;          // answered
  std::int64_t runs = 0;
  std::int64_t busy_us = 0;  // engine time of all slots
  std::int64_t queued = 0;
  std::int64_t wait_us = 0;        // predicted time to work off what waits
  std::vector<RunTime> run_times;  // by bucket
};

// What is remembered from one observation to the next. Plain numbers, so that a log can begin anywhere.
struct AutopilotState {
  std::int64_t seen_us = -1;     // last observation; -1: none yet
  std::int64_t changed_us = 0;   // when `applied` was last seen to change
  std::int64_t pressed_us = 0;   // last pressure, or when patience was last eased
  std::int64_t calm_us = 0;      // time without pressure and with room to spare
  std::int64_t patience_us = 0;  // how much of that before something is given back; doubles with each regret
  QueueSetting applied;
  QueueSetting proposed;
  bool proposed_thrift = false;
  bool thrifty = false;                   // the last change gave something back
  std::int64_t proposed_rate = 0;         // rows a second when more slots were proposed
  std::int64_t trial_from = 0;            // slots before the last growth; 0: not on trial
  std::int64_t trial_rate = 0;            // rows a second that they made
  std::int64_t slots_useful = 0;          // more than these gained nothing; 0: not known
  std::int64_t useful_until_us = 0;       // when that is forgotten
  std::int64_t bucket_held_until_us = 0;  // when the largest bucket may grow again
};

enum class AutopilotReason : std::uint8_t {
  kSteady = 0,            // the objective is kept, nothing is cheaper
  kTooFewRequests,        // not enough of them to judge
  kSettling,              // the last change has not shown yet
  kSlowAnswers,           // p99 is over the objective
  kQueueGrows,            // what waits will be over it
  kMisses,                // too many are refused or late
  kSlotGainedNothing,     // another slot only made every run longer
  kBoundTooTight,         // requests are refused that there was time for
  kRefusalsEnded,         // the bound refuses nobody any more
  kIdleSlots,             // fewer slots would do
  kBatchingGainsNothing,  // a batch costs as much a row as its rows one by one
  kHeadroom,              // there is time to wait for larger batches
  kSaturated,             // nothing left to give; the excess is refused
  kUnreachable,           // one run alone takes longer than the objective
};

inline constexpr int kAutopilotReasonCount = 14;

// Label in metrics and logs, such as "slow_answers".
std::string_view name(AutopilotReason reason) noexcept;

struct AutopilotDecision {
  QueueSetting setting;  // equal to what is applied when nothing is to be changed
  AutopilotReason reason = AutopilotReason::kSteady;
  std::string text;  // the same for people, with figures
};

// One step of the controller. The same arguments give the same decision and the same state, anywhere, at any time.
//
// Towards the objective it moves at once and by factors, towards economy slowly and one thing at a time. In between is
// a band where it does nothing. Each time an economy has to be taken back it waits twice as long before the next one,
// so under a steady load the number of changes of direction grows like the logarithm of time.
AutopilotDecision decide(const AutopilotPolicy& policy, AutopilotState& state, const AutopilotObservation& seen);

}  // namespace starling
