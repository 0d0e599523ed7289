// A lock-free latency histogram with bounded relative error, and its quantiles.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstdint>

namespace starling {

// Counts microseconds in log-linear buckets, `SubBuckets` (a power of two) per octave, up to 268 s.
// Thread-safe; reads are not a consistent cut, which a monitor does not need.
template <int SubBuckets>
class BasicHistogram {
 public:
  static constexpr int kSubBuckets = SubBuckets;
  static constexpr int kSubBits = std::bit_width(static_cast<unsigned>(SubBuckets)) - 1;
  static constexpr int kOctaves = 29 - kSubBits;
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
    const int octave = i / kSubBuckets + kSubBits - 1;
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
    const int octave = std::bit_width(us) - 1;  // >= kSubBits
    const auto sub = static_cast<int>((us >> (octave - kSubBits)) & (kSubBuckets - 1));
    const int i = (octave - kSubBits + 1) * kSubBuckets + sub;
    return i < kBuckets ? i : kBuckets - 1;
  }

  std::array<std::atomic<std::uint64_t>, kBuckets> counts_{};
  std::atomic<std::uint64_t> sum_us_{0};
};

using Histogram = BasicHistogram<4>;       // a quantile is at most 19 % off
using FineHistogram = BasicHistogram<32>;  // at most 3 %: to be held against an objective

}  // namespace starling
