// How far predictions of completion are off, so that admission can promise less.
#pragma once

#include <algorithm>
#include <cstdint>

namespace starling {

// Follows the time by which one in twenty answers is later than predicted. One that is missed moves it up by almost a
// twentieth of its bound, one that is kept moves it down by a nineteenth of that; below 0 it never is. Not thread-safe;
// pure: no clock.
class PromiseMargin {
 public:
  std::int64_t us() const noexcept { return static_cast<std::int64_t>(us_); }

  // `late_us`: completion after the predicted one, negative before it; most_us: what it is bounded by.
  void observe(std::int64_t late_us, std::int64_t most_us) noexcept {
    const auto most = static_cast<double>(most_us);
    const auto step = most * kMissed;
    us_ = std::clamp(us_ + (late_us > us() ? step * (1 - kMissed) : -step * kMissed), 0.0, most);
  }

  // One that was not answered in time at all.
  void observe_miss(std::int64_t most_us) noexcept { observe(us() + 1, most_us); }

 private:
  static constexpr double kMissed = 0.05;

  double us_ = 0;
};

}  // namespace starling
