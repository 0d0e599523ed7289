#include "execution_time.h"

#include <gtest/gtest.h>

namespace starling {
namespace {

constexpr std::int64_t kConvnet[] = {1, 2, 4};

ExecutionTime tiny_net() {
  static constexpr std::int64_t kRows[] = {1, 8, 32};
  ExecutionTime times(kRows);
  times.observe(0, 12);
  times.observe(1, 20);
  times.observe(2, 50);
  return times;
}

TEST(ExecutionTime, FewSlowRunsLeaveTheMedianAlone) {
  ExecutionTime times(kConvnet);
  for (int i = 0; i < 200; ++i) times.observe(0, i % 20 == 0 ? 90'000 : 16'000);
  EXPECT_EQ(times.run_time(0).median_us, 16'000);
  EXPECT_EQ(times.run_time(0).high_us, 16'000);
}

TEST(ExecutionTime, LastingChangeIsAdoptedWithinAWindow) {
  ExecutionTime times(kConvnet);
  for (int i = 0; i < 100; ++i) times.observe(0, 10'000);
  for (int i = 0; i < 40; ++i) times.observe(0, 80'000);
  EXPECT_EQ(times.run_time(0).median_us, 80'000);
}

TEST(ExecutionTime, BacklogUsesTheCheapestWayToCutTheRows) {
  const auto times = tiny_net();
  EXPECT_EQ(times.backlog_us(0), 0);
  EXPECT_EQ(times.backlog_us(1), 12);
  EXPECT_EQ(times.backlog_us(8), 20);
  EXPECT_EQ(times.backlog_us(9), 32);
  EXPECT_EQ(times.backlog_us(64), 100);
}

TEST(ExecutionTime, BucketThatIsBelievedTooSlowIsTriedAndBelievedAgain) {
  auto times = tiny_net();
  for (int i = 0; i < 20; ++i) times.observe(1, 90);  // a poor warm-up: slower than four times the rows
  EXPECT_EQ(times.run_time(1).median_us, 50);
  EXPECT_EQ(times.backlog_us(8), 50);
  for (int i = 0; i < 44; ++i) times.observe(1, 20);
  EXPECT_EQ(times.run_time(1).median_us, 20);
}

TEST(ExecutionTime, BucketThatIsSlowerThanALargerOneIsKnownAfterAWindow) {
  auto times = tiny_net();
  for (int i = 0; i < 64; ++i) times.observe(1, 90);
  EXPECT_EQ(times.run_time(1).median_us, 90);
  // Much later nobody knows any more.
  for (int i = 0; i < 3000; ++i) times.observe(2, 50);
  EXPECT_EQ(times.run_time(1).median_us, 50);
}

TEST(ExecutionTime, BucketNobodyHasRunSaysNothingOfOthers) {
  static constexpr std::int64_t kRows[] = {1, 8};
  ExecutionTime times(kRows);
  times.observe(0, 12);
  EXPECT_EQ(times.run_time(0).median_us, 12);
  EXPECT_EQ(times.run_time(1).median_us, 0);
}

TEST(ExecutionTime, BatchesGainWhatTheyTakeLessARow) {
  EXPECT_EQ(tiny_net().gain_us(), 12 - 50 / 32);
  ExecutionTime convnet(kConvnet);
  for (std::size_t b = 0; b < 3; ++b) convnet.observe(b, 16'000 * kConvnet[b]);
  EXPECT_EQ(convnet.gain_us(), 0);
}

TEST(ExecutionTime, LargerBucketPaysWhereARowIsATenthQuicker) {
  const auto net = tiny_net();
  EXPECT_TRUE(net.pays(0) && net.pays(1) && net.pays(2));
  ExecutionTime convnet(kConvnet);
  convnet.observe(0, 20'000);
  convnet.observe(1, 38'400);      // 4 % a row: noise
  convnet.observe(2, 20'000 * 3);  // a quarter
  EXPECT_TRUE(convnet.pays(0));
  EXPECT_FALSE(convnet.pays(1));
  EXPECT_TRUE(convnet.pays(2));
  EXPECT_EQ(convnet.largest_that_pays(2), 2U);
  EXPECT_EQ(convnet.largest_that_pays(1), 0U);
  EXPECT_EQ(convnet.backlog_us(2), 40'000);
}

// A neighbour comes and goes while single frames run, and nothing else.
TEST(ExecutionTime, BucketThatDoesNotRunKeepsPaceWithTheOneThatDoes) {
  ExecutionTime times(kConvnet);
  for (std::size_t b = 0; b < 3; ++b) {
    for (int i = 0; i < 5; ++i) times.observe(b, 20'000 * kConvnet[b]);
  }
  for (int i = 0; i < 64; ++i) times.observe(0, 50'000);
  EXPECT_NEAR(times.run_time(1).median_us, 100'000, 100);
  EXPECT_NEAR(times.run_time(2).high_us, 200'000, 200);
  EXPECT_FALSE(times.pays(1));
  // What it remembers is of the present pace too, once it runs.
  times.observe(1, 100'000);
  times.observe(0, 50'000);
  EXPECT_NEAR(times.run_time(1).median_us, 100'000, 100);
  for (int i = 0; i < 64; ++i) times.observe(0, 20'000);
  EXPECT_NEAR(times.run_time(1).median_us, 40'000, 100);
  EXPECT_NEAR(times.run_time(2).median_us, 80'000, 100);
}

// Single frames become slower for a reason of their own; pairs that run as well are what their own runs say.
TEST(ExecutionTime, BucketsThatTakeTurnsSpeakForThemselves) {
  ExecutionTime times(kConvnet);
  for (int i = 0; i < 64; ++i) times.observe(0, 10'000);
  for (int i = 0; i < 64; ++i) times.observe(1, 30'000);
  for (int turn = 0; turn < 200; ++turn) {
    for (int i = 0; i < 8; ++i) times.observe(0, 25'000);
    for (int i = 0; i < 8; ++i) times.observe(1, 30'000);
  }
  EXPECT_EQ(times.run_time(0).median_us, 25'000);
  EXPECT_EQ(times.run_time(1).median_us, 30'000);
  // After a pause of any length a few runs of its own are enough, and change nothing for the other.
  for (int turn = 0; turn < 20; ++turn) {
    const bool slow = turn % 2 == 0;
    for (int i = 0; i < 100; ++i) times.observe(0, slow ? 50'000 : 25'000);
    for (int i = 0; i < 8; ++i) times.observe(1, 30'000);
    EXPECT_EQ(times.run_time(0).median_us, slow ? 50'000 : 25'000) << turn;
    EXPECT_EQ(times.run_time(1).median_us, 30'000) << turn;
  }
}

TEST(ExecutionTime, GrainOfTheClockIsNoChangeOfPace) {
  static constexpr std::int64_t kRows[] = {1, 8};
  ExecutionTime times(kRows);
  for (int i = 0; i < 64; ++i) times.observe(0, 1);
  for (int i = 0; i < 64; ++i) times.observe(1, 5);
  for (int i = 0; i < 64; ++i) times.observe(0, 2);  // twice as long
  EXPECT_EQ(times.run_time(1).median_us, 5);
  EXPECT_TRUE(times.pays(1));
}

TEST(ExecutionTime, RequestLargerThanEveryBucketGetsTheLargest) {
  const auto times = tiny_net();
  EXPECT_EQ(times.bucket_for(2), 1U);
  EXPECT_EQ(times.bucket_for(33), 2U);
}

}  // namespace
}  // namespace starling
