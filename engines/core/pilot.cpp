#include "pilot.h"

#include <algorithm>
#include <cmath>

namespace starling {
namespace {

using std::chrono::milliseconds;

// An ordinary window, and one for models that answer too few requests to tell a 99th percentile.
constexpr milliseconds kWindow{1000};
constexpr milliseconds kLongWindow{2000};
constexpr std::uint64_t kAnswersWanted = 100;

template <class Counts>
void copy(const FineHistogram& from, Counts& to) noexcept {
  for (int i = 0; i < FineHistogram::kBuckets; ++i) to[static_cast<std::size_t>(i)] = from.bucket(i);
}

// Of what was counted between two copies; 0 when nothing was.
template <class Counts>
std::int64_t p99_us(const Counts& from, const Counts& to) noexcept {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < to.size(); ++i) total += to[i] - from[i];
  if (total == 0) return 0;
  const auto rank = static_cast<std::uint64_t>(std::floor(0.99 * static_cast<double>(total - 1))) + 1;
  std::uint64_t seen = 0;
  std::size_t i = 0;
  for (; i + 1 < to.size() && (seen += to[i] - from[i]) < rank; ++i) {
  }
  return static_cast<std::int64_t>(FineHistogram::upper_us(static_cast<int>(i)));
}

}  // namespace

Pilot::Pilot(AutopilotPolicy policy, AutopilotMode mode, TimePoint born)
    : policy_(std::move(policy)),
      mode_(mode),
      born_(born),
      changed_(born.time_since_epoch().count()),
      next_due_((born + kPeriod).time_since_epoch().count()),
      applied_(policy_.most) {
  snapshots_.push_back(std::make_unique<Snapshot>());
  snapshots_.back()->at = born;
}

bool Pilot::is_due(TimePoint now) noexcept {
  auto due = next_due_.load(std::memory_order_relaxed);
  if (now.time_since_epoch().count() < due) return false;
  return next_due_.compare_exchange_strong(due, (now + kPeriod).time_since_epoch().count(), std::memory_order_relaxed);
}

// The youngest snapshot that makes a whole window, or a long one where the whole one holds too few answers.
const Pilot::Snapshot& Pilot::base_for(const Snapshot& last) const {
  const Snapshot* base = snapshots_.front().get();
  for (const auto& snapshot : snapshots_) {
    const bool enough = last.counters.answered - snapshot->counters.answered >= kAnswersWanted;
    if (last.at - snapshot->at >= (enough ? kWindow : kLongWindow)) base = snapshot.get();
  }
  return *base;
}

AutopilotObservation Pilot::observe(const Snapshot& base, const Snapshot& last, PilotView&& view) const {
  const auto count = [&](std::uint64_t PilotCounters::* of) {
    return static_cast<std::int64_t>(last.counters.*of - base.counters.*of);
  };
  AutopilotObservation seen;
  seen.at_us = microseconds_between(born_, last.at);
  seen.window_us = microseconds_between(base.at, last.at);
  seen.applied = view.applied;
  seen.answered = count(&PilotCounters::answered);
  seen.late = std::max<std::int64_t>(0, seen.answered - count(&PilotCounters::met));
  seen.refused = count(&PilotCounters::refused);
  seen.p99_us = p99_us(base.answers, last.answers);
  seen.fresh_p99_us = p99_us(base.fresh, last.fresh);
  seen.rows = count(&PilotCounters::rows);
  seen.runs = count(&PilotCounters::runs);
  seen.busy_us = count(&PilotCounters::busy_us);
  seen.queued = view.queued;
  seen.wait_us = view.wait_us;
  seen.run_times = std::move(view.run_times);
  return seen;
}

QueueSetting Pilot::step(TimePoint now, const PilotCounters& counters, PilotView view) {
  const std::lock_guard lock(mutex_);
  auto taken = std::make_unique<Snapshot>();
  taken->at = now;
  taken->counters = counters;
  copy(answers_, taken->answers);
  copy(fresh_, taken->fresh);
  snapshots_.push_back(std::move(taken));
  // A window never reaches behind a change, so that what came of it is not hidden by what was before.
  const auto applied = view.applied;
  if (applied != applied_) snapshots_.erase(snapshots_.begin(), snapshots_.end() - 2);
  applied_ = applied;
  auto seen = observe(base_for(*snapshots_.back()), *snapshots_.back(), std::move(view));
  while (snapshots_.size() > 1 && now - snapshots_[1]->at >= kLongWindow) snapshots_.pop_front();
  if (seen.answered + seen.refused + seen.busy_us + seen.queued == 0) return applied;

  PilotRecord record{status_.last.number + 1, std::move(seen), state_, {}};
  record.decision = decide(policy_, state_, record.seen);
  const auto& setting = record.decision.setting;
  if (setting != applied && setting != counted_) ++status_.changes[static_cast<std::size_t>(record.decision.reason)];
  counted_ = setting;
  if (records_.size() == kRecordsMax) records_.pop_front();
  records_.push_back(record);
  status_.last = std::move(record);
  const auto& next = status_.last.decision.setting;
  if (mode_ != AutopilotMode::kAct || next == applied) return applied;
  changed_.store(now.time_since_epoch().count(), std::memory_order_relaxed);
  return next;
}

PilotStatus Pilot::status() const {
  const std::lock_guard lock(mutex_);
  return status_;
}

std::vector<PilotRecord> Pilot::take_records() {
  const std::lock_guard lock(mutex_);
  std::vector<PilotRecord> taken(std::make_move_iterator(records_.begin()), std::make_move_iterator(records_.end()));
  records_.clear();
  return taken;
}

}  // namespace starling
