#include "histogram.h"

#include <gtest/gtest.h>

#include <random>

namespace starling {
namespace {

TEST(Histogram, QuantilesAreAtMostAFifthTooHigh) {
  std::mt19937_64 rng(7);  // NOLINT: replayable
  std::lognormal_distribution<double> latency(7, 1.5);
  Histogram histogram;
  std::vector<std::int64_t> values;
  for (int i = 0; i < 20'000; ++i) {
    values.push_back(static_cast<std::int64_t>(latency(rng)));
    histogram.record(values.back());
  }
  std::sort(values.begin(), values.end());
  for (const double q : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    const auto exact = static_cast<double>(values[static_cast<std::size_t>(q * 19'999)]);
    const auto found = static_cast<double>(histogram.quantile_us(q));
    EXPECT_GE(found, exact);
    EXPECT_LE(found, exact * 1.25 + 1);
  }
  EXPECT_EQ(histogram.count(), 20'000U);
}

TEST(Histogram, EveryBucketEdgeFallsIntoItsOwnBucket) {
  for (int i = 0; i < Histogram::kBuckets - 1; ++i) {
    Histogram histogram;
    histogram.record(static_cast<std::int64_t>(Histogram::upper_us(i)));
    EXPECT_EQ(histogram.bucket(i), 1U) << i;
    histogram.record(static_cast<std::int64_t>(Histogram::upper_us(i)) + 1);
    EXPECT_EQ(histogram.bucket(i + 1), 1U) << i;
  }
}

TEST(Histogram, TakesNegativeAndHugeValuesWithoutFalling) {
  Histogram histogram;
  histogram.record(-5);
  histogram.record(std::int64_t{1} << 60);
  EXPECT_EQ(histogram.count(), 2U);
  EXPECT_EQ(histogram.quantile_us(0), 0U);
}

}  // namespace
}  // namespace starling
