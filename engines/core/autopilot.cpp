#include "autopilot.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace starling {
namespace {

using Reason = AutopilotReason;

constexpr std::int64_t kRequestsMin = 20;
constexpr std::int64_t kLongWindowUs = 1'900'000;
constexpr std::int64_t kRequestsMinInLongWindow = 5;
// A change shows in answers after about two of them have gone through the queue.
constexpr std::int64_t kSettleUsMin = 400'000;
constexpr std::int64_t kSettleUsMax = 5'000'000;
constexpr std::int64_t kPatienceUsMin = 2'000'000;
constexpr std::int64_t kPatienceUsMax = 64'000'000;
constexpr std::int64_t kEaseUs = 60'000'000;  // patience halves after so long without pressure
constexpr std::int64_t kElapsedUsMax = 1'000'000;
// Above this an engine's queue is never empty for long.
constexpr double kLoaded = 0.8;
// Shares of the objective: economies begin below the first and promise to stay below the second; admission aims at
// the third, since predictions are quantiles themselves.
constexpr double kComfort = 0.7;
constexpr double kPlan = 0.8;
constexpr double kAim = 0.9;
// A batch must be this much cheaper a row than single rows to be worth any waiting.
constexpr double kFewRows = 0.3;  // to wait for so few is to wait for none; waiting begins where there is one
constexpr double kGain = 0.9;
constexpr double kSame = 1.05;
constexpr std::int64_t kDelayUsMin = 100;
// ln(100) / 2: the tail of a queue in front of one server with constant run time, P(wait > t) ~ exp(-2 (1 - r) t / r).
constexpr double kTail = 2.3;
constexpr double kBusyMax = 0.7;
// Least bound on admission, in high quantiles of a single row's run, and of a full batch where batching gains: one that
// runs, one that waits, and some room.
constexpr double kAlone = 1.25;
constexpr double kFullBatches = 2.5;

double share(std::int64_t part, std::int64_t whole) noexcept {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

std::int64_t scaled(std::int64_t us, double factor) noexcept {
  return static_cast<std::int64_t>(std::llround(static_cast<double>(us) * factor));
}

std::string milliseconds(std::int64_t us) {
  const auto tenths = (us + 50) / 100;
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " ms";
}

std::string percent(double of_one) { return std::to_string(std::llround(of_one * 100)) + " %"; }

// One step, with the figures that several of its rules need.
class Step {
 public:
  Step(const AutopilotPolicy& policy, AutopilotState& state, const AutopilotObservation& seen)
      : policy_(policy),
        state_(state),
        seen_(seen),
        next_(seen.applied),
        demand_(seen.answered + seen.refused),
        missed_(share(seen.late + seen.refused, demand_)),
        busy_(share(seen.busy_us, seen.window_us * std::max<std::int64_t>(1, seen.applied.slots))) {}

  AutopilotDecision run() {
    const auto elapsed_us = remember();
    reason_ = judge(elapsed_us);
    state_.proposed = next_;
    return {next_, reason_, text()};
  }

 private:
  std::int64_t settle_us() const { return std::clamp(2 * policy_.p99_us, kSettleUsMin, kSettleUsMax); }
  bool settled() const { return seen_.at_us - state_.changed_us >= settle_us(); }
  RunTime run_time(std::int64_t bucket) const { return seen_.run_times[static_cast<std::size_t>(bucket)]; }
  std::int64_t rows(std::int64_t bucket) const { return policy_.bucket_rows[static_cast<std::size_t>(bucket)]; }
  double row_cost(std::int64_t bucket) const {
    return std::max(1.0, static_cast<double>(run_time(bucket).median_us)) / static_cast<double>(rows(bucket));
  }
  // While all slots are busy: what comes may be less, and more of it no merit of theirs.
  std::int64_t rows_per_second() const {
    return seen_.busy_us > 0 ? seen_.rows * seen_.applied.slots * 1'000'000 / seen_.busy_us : 0;
  }
  bool slow() const { return seen_.answered > 0 && seen_.p99_us > policy_.p99_us; }
  bool queue_grows() const { return seen_.wait_us > policy_.p99_us; }
  bool loaded() const { return busy_ >= kLoaded || seen_.wait_us > policy_.p99_us / 2; }

  // Notices what became of the last proposal; returns the time since the last observation.
  std::int64_t remember() {
    if (state_.seen_us < 0) {
      state_.applied = state_.proposed = seen_.applied;
      state_.changed_us = state_.pressed_us = state_.seen_us = seen_.at_us;
      state_.patience_us = kPatienceUsMin;
    }
    const auto elapsed_us = std::clamp<std::int64_t>(seen_.at_us - state_.seen_us, 0, kElapsedUsMax);
    state_.seen_us = seen_.at_us;
    if (seen_.applied == state_.applied) return elapsed_us;
    const bool ours = seen_.applied == state_.proposed;
    state_.thrifty = ours && state_.proposed_thrift;
    state_.trial_from =
        ours && !state_.thrifty && seen_.applied.slots > state_.applied.slots ? state_.applied.slots : 0;
    state_.trial_rate = state_.proposed_rate;
    if (seen_.applied.largest_bucket != state_.applied.largest_bucket) {
      // Estimates of buckets that do not run any more grow old: what gained nothing is not tried again soon.
      state_.bucket_held_until_us = seen_.at_us + (gains() ? 4 * state_.patience_us : kPatienceUsMax);
    }
    state_.applied = seen_.applied;
    state_.changed_us = seen_.at_us;
    state_.calm_us = 0;
    return elapsed_us;
  }

  Reason judge(std::int64_t elapsed_us) {
    const auto least = seen_.window_us >= kLongWindowUs ? kRequestsMinInLongWindow : kRequestsMin;
    if (demand_ < least && !queue_grows()) return Reason::kTooFewRequests;
    if (slow() || queue_grows() || missed_ > policy_.miss_rate) {
      regret();
      return settled() ? protect() : Reason::kSettling;
    }
    ease();
    const bool room = static_cast<double>(seen_.p99_us) < kComfort * static_cast<double>(policy_.p99_us) &&
                      missed_ <= policy_.miss_rate / 2;
    state_.calm_us = room ? state_.calm_us + elapsed_us : 0;
    if (state_.calm_us < state_.patience_us) return Reason::kSteady;
    return settled() ? economise() : Reason::kSettling;
  }

  // An economy that led to this was a mistake: the next one comes later.
  void regret() {
    state_.calm_us = 0;
    state_.pressed_us = seen_.at_us;
    if (state_.thrifty) state_.patience_us = std::min(2 * state_.patience_us, kPatienceUsMax);
    state_.thrifty = false;
  }

  void ease() {
    if (seen_.at_us - state_.pressed_us < kEaseUs) return;
    state_.patience_us = std::max(state_.patience_us / 2, kPatienceUsMin);
    state_.pressed_us = seen_.at_us;
  }

  Reason protect() {
    state_.proposed_thrift = false;
    const auto why = slow() ? Reason::kSlowAnswers : queue_grows() ? Reason::kQueueGrows : Reason::kMisses;
    if (why == Reason::kMisses && loosen()) return Reason::kBoundTooTight;
    if (on_trial() && !slot_was_worth_it()) return Reason::kSlotGainedNothing;
    bool moved = drop_useless_batching();
    if (loaded()) {
      moved = grow_capacity() || moved;
    } else if (why != Reason::kMisses && !moved) {
      moved = shorten_wait();
    }
    if (why != Reason::kMisses && (loaded() || !moved)) tighten();
    if (next_ != seen_.applied) return why;
    return run_time(0).median_us > policy_.p99_us ? Reason::kUnreachable : Reason::kSaturated;
  }

  bool on_trial() const { return state_.trial_from > 0 && state_.trial_from < seen_.applied.slots && loaded(); }

  // On a core that was busy already one more slot makes every run longer and answers nothing more.
  bool slot_was_worth_it() {
    const auto from = state_.trial_from;
    state_.trial_from = 0;
    if (static_cast<double>(rows_per_second()) > kSame * static_cast<double>(state_.trial_rate)) return true;
    state_.slots_useful = from;
    state_.useful_until_us = seen_.at_us + kPatienceUsMax;
    next_.slots = from;
    return false;
  }

  // More batches at once, and cheaper ones: up to twice as many, up to the cheapest that the objective has time for.
  bool grow_capacity() {
    if (state_.slots_useful > 0 && seen_.at_us >= state_.useful_until_us) state_.slots_useful = 0;
    const auto most = state_.slots_useful > 0 ? std::min(state_.slots_useful, policy_.most.slots) : policy_.most.slots;
    next_.slots = std::max(next_.slots, std::min(2 * next_.slots, most));
    state_.proposed_rate = rows_per_second();
    const auto cheap = cheapest_bucket(policy_.p99_us / 2);
    if (cheap > next_.largest_bucket && row_cost(cheap) < kGain * row_cost(next_.largest_bucket) &&
        seen_.at_us >= state_.bucket_held_until_us) {
      next_.largest_bucket = cheap;
    }
    return next_ != seen_.applied;
  }

  // The engine has time: answers are slow because they wait for others, or because runs are long.
  bool shorten_wait() {
    if (next_.batch_delay_us > 0) {
      next_.batch_delay_us = next_.batch_delay_us / 2 < kDelayUsMin ? 0 : next_.batch_delay_us / 2;
    } else if (next_.largest_bucket > 0 && run_time(next_.largest_bucket).high_us > policy_.p99_us / 3) {
      --next_.largest_bucket;
    } else if (busy_ > 0.3) {
      const auto most = state_.slots_useful > 0 ? state_.slots_useful : policy_.most.slots;
      next_.slots = std::max(next_.slots, std::min(next_.slots + 1, most));
      state_.proposed_rate = rows_per_second();
    }
    return next_ != seen_.applied;
  }

  // Refuses what would be answered too late by the objective. Never less than an idle engine needs, nor so little that
  // no batch fills: that would cost the capacity that is short.
  void tighten() {
    const auto aim_us = scaled(policy_.p99_us, kAim);
    const auto full_us = gains() ? scaled(run_time(next_.largest_bucket).high_us, kFullBatches) : 0;
    const auto floor_us = std::max(scaled(run_time(0).high_us, kAlone), std::min(full_us, aim_us));
    auto bound_us = aim_us;
    if (next_.bound_us > 0) {
      if (seen_.fresh_p99_us <= policy_.p99_us) return;
      bound_us = scaled(next_.bound_us, std::clamp(kAim * share(policy_.p99_us, seen_.fresh_p99_us), 0.5, 0.95));
    }
    bound_us = std::max(bound_us, floor_us);
    if (next_.bound_us == 0 || bound_us < next_.bound_us) {
      next_.bound_us = bound_us;
    } else if (next_.largest_bucket > 0 && run_time(next_.largest_bucket).high_us > policy_.p99_us / 4) {
      --next_.largest_bucket;  // full batches are what takes too long
    }
  }

  bool loosen() {
    const auto aim_us = scaled(policy_.p99_us, kAim);
    if (next_.bound_us == 0 || next_.bound_us >= aim_us || seen_.fresh_p99_us == 0) return false;
    const auto factor = kComfort * share(policy_.p99_us, seen_.fresh_p99_us);
    // It may be a mistake like any economy, and then the next one comes later.
    if (factor <= 1 || seen_.at_us - state_.changed_us < state_.patience_us / 2) return false;
    state_.proposed_thrift = true;
    next_.bound_us = std::min(aim_us, scaled(next_.bound_us, std::clamp(factor, 1.1, 1.5)));
    return true;
  }

  // A batch of the cheapest size is worth waiting for.
  bool gains() const { return row_cost(cheapest_bucket(policy_.p99_us)) < kGain * row_cost(0); }

  // Where a batch costs as much as its rows one by one, large ones and waiting for them only make answers slower.
  bool drop_useless_batching() {
    if (gains() || (next_.batch_delay_us == 0 && next_.largest_bucket == 0)) return false;
    next_.batch_delay_us = next_.largest_bucket = 0;
    return true;
  }

  Reason economise() {
    state_.proposed_thrift = true;
    if (next_.bound_us > 0) {
      next_.bound_us = 0;
      return Reason::kRefusalsEnded;
    }
    const auto rows_meanwhile = share(seen_.rows * next_.batch_delay_us, seen_.window_us);
    if (next_.batch_delay_us > 0 && rows_meanwhile < kFewRows) {
      next_.batch_delay_us = 0;
      return Reason::kBatchingGainsNothing;
    }
    if (drop_useless_batching()) return Reason::kBatchingGainsNothing;
    if (fewer_slots_do()) {
      --next_.slots;
      return Reason::kIdleSlots;
    }
    if (gains() && wait_for_more(cheapest_bucket(policy_.p99_us))) return Reason::kHeadroom;
    return Reason::kSteady;
  }

  bool fewer_slots_do() const {
    if (next_.slots <= 1) return false;
    const auto busy = busy_ * static_cast<double>(next_.slots) / static_cast<double>(next_.slots - 1);
    if (busy > kBusyMax) return false;
    const auto run_us = static_cast<double>(run_time(next_.largest_bucket).high_us);
    return run_us * (1 + kTail * busy / (1 - busy)) <= kComfort * static_cast<double>(policy_.p99_us);
  }

  // Larger batches cost less a row, if enough rows come to fill them and the objective has time for the wait.
  bool wait_for_more(std::int64_t cheap) {
    const auto mean_rows = share(seen_.rows, seen_.runs);
    const auto room_us = scaled(policy_.p99_us, kPlan) - seen_.p99_us;
    if (cheap > next_.largest_bucket && mean_rows > 0.8 * static_cast<double>(rows(next_.largest_bucket)) &&
        row_cost(cheap) < kGain * row_cost(next_.largest_bucket) &&
        run_time(cheap).high_us - run_time(next_.largest_bucket).high_us < room_us &&
        seen_.at_us >= state_.bucket_held_until_us) {
      next_.largest_bucket = cheap;
      return true;
    }
    const auto step_us = std::max(policy_.most.batch_delay_us / 8, kDelayUsMin);
    const auto delay_us = std::min(next_.batch_delay_us + step_us, policy_.most.batch_delay_us);
    const auto rows_meanwhile = share(seen_.rows * delay_us, seen_.window_us);
    if (delay_us <= next_.batch_delay_us || delay_us - next_.batch_delay_us >= room_us) return false;
    if (rows_meanwhile < 1 || mean_rows >= static_cast<double>(rows(next_.largest_bucket))) return false;
    next_.batch_delay_us = delay_us;
    return true;
  }

  // The smallest bucket whose rows cost hardly more than the cheapest ones, among those that run within `limit_us`.
  std::int64_t cheapest_bucket(std::int64_t limit_us) const {
    double least = row_cost(0);
    for (std::int64_t b = 1; b <= policy_.most.largest_bucket; ++b) {
      if (run_time(b).high_us <= limit_us) least = std::min(least, row_cost(b));
    }
    std::int64_t b = 0;
    while (row_cost(b) > kSame * least || (b > 0 && run_time(b).high_us > limit_us)) ++b;
    return b;
  }

  std::string text() const {
    std::string out = "p99 " + (seen_.answered > 0 ? milliseconds(seen_.p99_us) : std::string("unknown")) + " of " +
                      milliseconds(policy_.p99_us) + ", " + percent(missed_) + " missed, " + percent(busy_) + " busy";
    const auto change = [&out](const char* what, std::int64_t from, std::int64_t to, auto show) {
      if (from != to) out += std::string("; ") + what + " " + show(from) + " to " + show(to);
    };
    const auto bound = [](std::int64_t us) { return us == 0 ? std::string("none") : milliseconds(us); };
    change("batch delay", seen_.applied.batch_delay_us, next_.batch_delay_us, milliseconds);
    change("largest batch", seen_.applied.largest_bucket, next_.largest_bucket,
           [this](std::int64_t b) { return std::to_string(rows(b)); });
    change("slots", seen_.applied.slots, next_.slots, [](std::int64_t n) { return std::to_string(n); });
    change("admission bound", seen_.applied.bound_us, next_.bound_us, bound);
    return out;
  }

  const AutopilotPolicy& policy_;
  AutopilotState& state_;
  const AutopilotObservation& seen_;
  QueueSetting next_;
  Reason reason_ = Reason::kSteady;
  std::int64_t demand_;
  double missed_;
  double busy_;
};

}  // namespace

std::string_view name(AutopilotReason reason) noexcept {
  constexpr std::array<std::string_view, kAutopilotReasonCount> kNames = {"steady",
                                                                          "too_few_requests",
                                                                          "settling",
                                                                          "slow_answers",
                                                                          "queue_grows",
                                                                          "misses",
                                                                          "slot_gained_nothing",
                                                                          "bound_too_tight",
                                                                          "refusals_ended",
                                                                          "idle_slots",
                                                                          "batching_gains_nothing",
                                                                          "headroom",
                                                                          "saturated",
                                                                          "unreachable"};
  return kNames[static_cast<std::size_t>(reason)];
}

AutopilotDecision decide(const AutopilotPolicy& policy, AutopilotState& state, const AutopilotObservation& seen) {
  return Step(policy, state, seen).run();
}

}  // namespace starling
