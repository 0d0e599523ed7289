#include "execution_time.h"

#include <algorithm>
#include <cmath>

namespace starling {
namespace {

// Tiny models run tens of thousands of times a second; sorting the window each time would cost what a run costs.
constexpr std::size_t kEstimateEvery = 8;
// After this many runs of others a bucket's own estimate is out of date.
constexpr std::size_t kStaleAfter = 2048;
// Runs after which a bucket says how fast the machine is.
constexpr std::size_t kKnownAfter = 8;
// Relative changes of less than this are nothing but the grain of the clock.
constexpr double kGrainUs = 10;
// A change of pace beyond this share makes what was measured before another machine's.
constexpr double kPaceChange = 0.1;
// A bucket that did not run for so many runs of others is idle: others say more of it than its own runs.
constexpr std::size_t kIdleAfter = 32;
// Of a row's engine time, what a larger batch must leave of it to pay.
constexpr double kPays = 0.9;

std::int64_t scaled(std::int64_t us, double times) noexcept { return std::llround(static_cast<double>(us) * times); }

}  // namespace

ExecutionTime::ExecutionTime(std::span<const std::int64_t> buckets)
    : estimates_(buckets.size()), buckets_(buckets.size()) {
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    estimates_[i].rows = buckets[i];
    buckets_[i].medians_then.resize(buckets.size());
  }
}

void ExecutionTime::observe(std::size_t index, std::int64_t run_us) {
  auto& bucket = buckets_[index];
  catch_up(bucket);
  bucket.window[bucket.count % kWindow] = run_us;
  ++bucket.count;
  if (bucket.count >= kKnownAfter) latest_ = index;
  bucket.latest = ++runs_;
  if (bucket.count > kEstimateEvery && bucket.count % kEstimateEvery != 0) return;
  estimate(bucket);
  if (bucket.count == kKnownAfter) {
    for (auto& other : buckets_) {
      if (other.medians_then[index] == 0) other.medians_then[index] = bucket.own.median_us;
    }
  }
  reconcile();
}

// How many times slower the machine is than when an idle bucket last ran, as the one says that ran since.
double ExecutionTime::pace_since(const Bucket& bucket) const noexcept {
  const auto then = bucket.medians_then[latest_];
  if (then == 0 || runs_ - bucket.latest < kIdleAfter || &bucket == &buckets_[latest_]) return 1;
  return (static_cast<double>(buckets_[latest_].own.median_us) + kGrainUs) / (static_cast<double>(then) + kGrainUs);
}

// What was measured at another pace makes room for what is measured now.
void ExecutionTime::catch_up(Bucket& bucket) {
  if (const auto pace = pace_since(bucket); std::abs(pace - 1) > kPaceChange) {
    bucket.own = {scaled(bucket.own.median_us, pace), scaled(bucket.own.high_us, pace)};
    bucket.window[0] = bucket.own.median_us;
    bucket.count = 1;
  }
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    bucket.medians_then[i] = buckets_[i].count >= kKnownAfter ? buckets_[i].own.median_us : 0;
  }
}

// From the largest bucket down: one without a window of its own recent runs takes no longer than the next larger one,
// in which its rows would fit as well.
void ExecutionTime::reconcile() {
  const RunTime* larger = nullptr;
  for (auto i = buckets_.size(); i-- > 0;) {
    const auto& bucket = buckets_[i];
    if (bucket.count == 0) continue;
    auto& now = estimates_[i].now;
    const auto pace = pace_since(bucket);
    now = {scaled(bucket.own.median_us, pace), scaled(bucket.own.high_us, pace)};
    const bool proven = bucket.count >= kWindow && runs_ - bucket.latest < kStaleAfter;
    if (larger != nullptr && !proven) {
      now = {std::min(now.median_us, larger->median_us), std::min(now.high_us, larger->high_us)};
    }
    larger = &now;
  }
  find_what_pays();
}

void ExecutionTime::find_what_pays() {
  const auto row_us = [](const Estimate& bucket) {
    return static_cast<double>(bucket.now.median_us) / static_cast<double>(bucket.rows);
  };
  auto least = row_us(estimates_.front());
  for (auto& bucket : estimates_) {
    bucket.pays = &bucket == &estimates_.front() || row_us(bucket) <= kPays * least;
    if (bucket.pays) least = row_us(bucket);
    bucket.row_us = static_cast<std::int64_t>(least);
  }
}

std::size_t ExecutionTime::largest_that_pays(std::size_t most) const noexcept {
  while (!estimates_[most].pays) --most;
  return most;
}

void ExecutionTime::estimate(Bucket& bucket) {
  auto sorted = bucket.window;
  const auto n = std::min(bucket.count, kWindow);
  const auto end = sorted.begin() + static_cast<std::ptrdiff_t>(n);
  std::sort(sorted.begin(), end);
  bucket.own = {sorted[(n - 1) / 2], sorted[(n - 1) * 9 / 10]};
}

std::size_t ExecutionTime::bucket_for(std::int64_t rows) const noexcept {
  std::size_t i = 0;
  while (i + 1 < estimates_.size() && estimates_[i].rows < rows) ++i;
  return i;
}

// The smallest bucket that pays and holds the rows, of which there are fewer than in one that pays.
const ExecutionTime::Estimate& ExecutionTime::holds(std::int64_t rows) const noexcept {
  const auto* estimate = estimates_.data();
  while (!estimate->pays || estimate->rows < rows) ++estimate;
  return *estimate;
}

// The least time over ways to cut the rows into whole batches of one size that pays, and one batch for the rest.
std::int64_t ExecutionTime::cheapest_us(std::int64_t rows, std::int64_t RunTime::* quantile) const noexcept {
  if (rows <= 0) return 0;
  std::int64_t best = -1;
  for (const auto& bucket : estimates_) {
    if (!bucket.pays) continue;
    const auto whole = rows / bucket.rows;
    const auto rest = rows % bucket.rows;
    auto us = whole * bucket.now.*quantile;
    if (rest > 0) us += holds(rest).now.*quantile;
    if (best < 0 || us < best) best = us;
  }
  return best;
}

std::int64_t ExecutionTime::gain_us() const noexcept {
  const auto& smallest = estimates_.front();
  auto best = smallest.now.median_us / smallest.rows;
  for (const auto& bucket : estimates_) best = std::min(best, bucket.now.median_us / bucket.rows);
  return smallest.now.median_us / smallest.rows - best;
}

std::int64_t ExecutionTime::backlog_us(std::int64_t rows) const noexcept {
  return cheapest_us(rows, &RunTime::median_us);
}

std::int64_t ExecutionTime::cautious_backlog_us(std::int64_t rows) const noexcept {
  return cheapest_us(rows, &RunTime::high_us);
}

}  // namespace starling
