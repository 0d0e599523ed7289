// A lock-free latency histogram with bounded relative error, and its quantiles.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

namespace starling {

// Counts microseconds in log-linear buckets: four per octave, so a quantile is at most 19 % off.
// Thread-safe; reads are not a consistent cut, which a monitor does not need.
class Histogram {
 public:
  static constexpr int kSubBuckets = 4;
  static constexpr int kOctaves = 27;  // up to 134 s
  static constexpr int kBuckets = kSubBuckets * kOctaves;

  void record(std::int64_t us) noexcept {
    const auto value = static_cast<std::uint64_t>(us < 0 ? 0 : us);
    counts_[index(value)].fetch_add(1, std::memory_order_relaxed);
    sum_us_.fetch_add(value, std::memory_order_relaxed);
  }

  std::uint64_t count() const noexcept {
    std::uint64_t total = 0;
    for (const auto& c : counts_) total += c.load(std::memory_order_relaxed);
    return total;
  }

  std::uint64_t sum_us() const noexcept { return sum_us_.load(std::memory_order_relaxed); }

  std::uint64_t bucket(int i) const noexcept { return counts_[i].load(std::memory_order_relaxed); }

  // Upper edge of bucket i in microseconds (inclusive for whole microseconds).
  static std::uint64_t upper_us(int i) noexcept {
    if (i < kSubBuckets) return static_cast<std::uint64_t>(i);
    const int octave = i / kSubBuckets + 1;
    const auto base = std::uint64_t{1} << octave;
    return base + (base / kSubBuckets) * (i % kSubBuckets + 1) - 1;
  }

  // Smallest upper edge below which a share q of the values lies; 0 when empty.
  std::uint64_t quantile_us(double q) const noexcept {
    const auto total = count();
    if (total == 0) return 0;
    const auto rank = static_cast<std::uint64_t>(q * static_cast<double>(total - 1)) + 1;
    std::uint64_t seen = 0;
    for (int i = 0; i < kBuckets; ++i) {
      seen += bucket(i);
      if (seen >= rank) return upper_us(i);
    }
    return upper_us(kBuckets - 1);
  }

 private:
  static int index(std::uint64_t us) noexcept {
    if (us < kSubBuckets) return static_cast<int>(us);
    const int octave = std::bit_width(us) - 1;  // >= 2
    const auto sub = static_cast<int>((us >> (octave - 2)) & (kSubBuckets - 1));
    const int i = (octave - 1) * kSubBuckets + sub;
    return i < kBuckets ? i : kBuckets - 1;
  }

  std::array<std::atomic<std::uint64_t>, kBuckets> counts_{};
  std::atomic<std::uint64_t> sum_us_{0};
};

}  // namespace starling
