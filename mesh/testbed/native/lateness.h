// How late the wire itself handed packets over: the quality of its delays. Buckets an eighth of an octave wide.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace starling::testbed {

class Lateness {
 public:
  void observe(std::int64_t ns) {
    ++counts_[index(static_cast<std::uint64_t>(ns > 0 ? ns : 0))];
    ++total_;
  }

  // Upper end of the bucket of a quantile, microseconds; 0 of nothing.
  double quantile_us(double quantile) const {
    const auto rank = static_cast<std::int64_t>(quantile * static_cast<double>(total_));
    std::int64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (counts_[i] != 0 && seen > rank) return static_cast<double>(upper(i)) / 1e3;
    }
    return 0;
  }

 private:
  static constexpr unsigned kBits = 3;

  static std::size_t index(std::uint64_t value) {
    if (value < (1U << kBits)) return value;
    const auto octave = static_cast<unsigned>(std::bit_width(value)) - 1 - kBits;
    return (static_cast<std::size_t>(octave + 1) << kBits) + ((value >> octave) & ((1U << kBits) - 1));
  }
  static std::uint64_t upper(std::size_t i) {
    if (i < (1U << kBits)) return i;
    const std::size_t octave = (i >> kBits) - 1;
    return ((i & ((1U << kBits) - 1)) + (1U << kBits) + 1) << octave;
  }

  std::array<std::int64_t, (64 - kBits + 1) << kBits> counts_{};
  std::int64_t total_ = 0;
};

}  // namespace starling::testbed
