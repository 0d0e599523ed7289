#include "bucket_policy.h"

#include <gtest/gtest.h>

#include <array>

namespace starling {
namespace {

constexpr std::int64_t kNoHurry = 1'000'000;

TEST(BucketPolicy, ConvnetThatGainsNothingRunsOneByOne) {
  const std::array<BucketCost, 3> buckets{{{1, 3000}, {2, 6100}, {4, 12400}}};
  EXPECT_EQ(choose_bucket(buckets, 1, 4, kNoHurry), 0U);
}

TEST(BucketPolicy, TinyNetTakesTheLargestBucketThatFills) {
  const std::array<BucketCost, 3> buckets{{{1, 12}, {8, 20}, {32, 50}}};
  EXPECT_EQ(choose_bucket(buckets, 1, 1, kNoHurry), 0U);
  EXPECT_EQ(choose_bucket(buckets, 1, 8, kNoHurry), 1U);
  EXPECT_EQ(choose_bucket(buckets, 1, 100, kNoHurry), 2U);
  EXPECT_EQ(choose_bucket(buckets, 1, 30, kNoHurry), 2U);  // padding two rows is cheaper than a second run
}

TEST(BucketPolicy, PrefersABucketThatMakesTheDeadline) {
  const std::array<BucketCost, 2> buckets{{{1, 1000}, {8, 4000}}};
  EXPECT_EQ(choose_bucket(buckets, 1, 8, kNoHurry), 1U);
  EXPECT_EQ(choose_bucket(buckets, 1, 8, 2000), 0U);
  EXPECT_EQ(choose_bucket(buckets, 1, 8, 10), 1U);  // none makes it: the cheapest
}

TEST(BucketPolicy, AlwaysHoldsTheFirstRequest) {
  const std::array<BucketCost, 3> buckets{{{1, 10}, {4, 100}, {16, 1000}}};
  for (std::int64_t rows = 1; rows <= 16; ++rows) {
    EXPECT_GE(buckets[choose_bucket(buckets, rows, rows, 5)].rows, rows);
  }
}

}  // namespace
}  // namespace starling
