#include "promise_margin.h"

#include <gtest/gtest.h>

#include <random>

namespace starling {
namespace {

constexpr std::int64_t kMost = 20'000;

TEST(PromiseMargin, PredictionsThatHoldNeedNone) {
  PromiseMargin margin;
  for (int i = 0; i < 1000; ++i) margin.observe(-i % 50, kMost);
  EXPECT_EQ(margin.us(), 0);
}

TEST(PromiseMargin, LeavesOneInTwentyBeyondIt) {
  PromiseMargin margin;
  std::mt19937 rng(11);
  std::normal_distribution<double> late(-2'000, 4'000);
  int beyond = 0;
  constexpr int kWarm = 500;
  constexpr int kCounted = 20'000;
  for (int i = 0; i < kWarm + kCounted; ++i) {
    const auto us = static_cast<std::int64_t>(late(rng));
    if (i >= kWarm && us > margin.us()) ++beyond;
    margin.observe(us, kMost);
  }
  EXPECT_NEAR(static_cast<double>(beyond) / kCounted, 0.05, 0.01);
}

TEST(PromiseMargin, GrowsWithAFewMissesUpToItsBoundAndForgetsThem) {
  PromiseMargin margin;
  for (int i = 0; i < 5; ++i) margin.observe_miss(kMost);
  EXPECT_GT(margin.us(), kMost / 5);
  for (int i = 0; i < 100; ++i) margin.observe_miss(kMost);
  EXPECT_EQ(margin.us(), kMost);
  for (int i = 0; i < 500; ++i) margin.observe(-1, kMost);
  EXPECT_EQ(margin.us(), 0);
}

TEST(PromiseMargin, FollowsABoundThatShrinks) {
  PromiseMargin margin;
  for (int i = 0; i < 100; ++i) margin.observe_miss(kMost);
  margin.observe(-1, 1'000);
  EXPECT_LE(margin.us(), 1'000);
  margin.observe_miss(0);  // before anything was measured
  EXPECT_EQ(margin.us(), 0);
}

}  // namespace
}  // namespace starling
