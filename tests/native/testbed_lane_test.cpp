#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "lane.h"
#include "lateness.h"

namespace starling::testbed {
namespace {

constexpr Nanoseconds kMs = 1'000'000;

// When each of `count` packets of 1500 bytes arrives, one offered every `gap`; -1 for those that do not.
std::vector<Nanoseconds> send(Lane& lane, int count, Nanoseconds gap, Nanoseconds start = 0) {
  std::vector<Nanoseconds> due;
  for (int i = 0; i < count; ++i) {
    const Passage passage = lane.offer(start + i * gap, 1500);
    due.push_back(passage.fate == Fate::kCarried ? passage.due : -1);
    if (passage.fate == Fate::kCarried) lane.arrive(1500);
  }
  return due;
}

TEST(Lane, AddsItsDelayToEveryPacket) {
  Lane lane({.delay = 20 * kMs}, 1);
  const auto due = send(lane, 100, kMs);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(due[static_cast<std::size_t>(i)], i * kMs + 20 * kMs);
}

TEST(Lane, KeepsJitterInBoundsAndUsesThem) {
  Lane lane({.delay = 20 * kMs, .jitter = 3 * kMs}, 7);
  const auto due = send(lane, 10'000, 10 * kMs);  // far enough apart that none waits for another
  Nanoseconds least = 1000 * kMs, most = 0;
  for (int i = 0; i < 10'000; ++i) {
    const Nanoseconds took = due[static_cast<std::size_t>(i)] - i * 10 * kMs;
    least = std::min(least, took);
    most = std::max(most, took);
  }
  EXPECT_GE(least, 17 * kMs);
  EXPECT_LT(least, 17 * kMs + kMs / 10);
  EXPECT_LE(most, 23 * kMs);
  EXPECT_GT(most, 23 * kMs - kMs / 10);
}

TEST(Lane, JitterLargerThanTheDelayNeverArrivesBeforeItLeft) {
  Lane lane({.delay = kMs, .jitter = 5 * kMs}, 3);
  const auto due = send(lane, 1000, 20 * kMs);
  for (int i = 0; i < 1000; ++i) EXPECT_GE(due[static_cast<std::size_t>(i)], i * 20 * kMs);
}

TEST(Lane, KeepsOrderWhateverTheJitter) {
  Lane lane({.delay = 20 * kMs, .jitter = 20 * kMs}, 5);
  const auto due = send(lane, 10'000, kMs / 10);
  EXPECT_TRUE(std::is_sorted(due.begin(), due.end()));
}

TEST(Lane, ReordersOnlyWhenAskedAndWithinTwiceTheJitter) {
  Lane lane({.delay = 20 * kMs, .jitter = 2 * kMs, .reorder = 0.5}, 5);
  const auto due = send(lane, 10'000, kMs / 10);
  EXPECT_FALSE(std::is_sorted(due.begin(), due.end()));
  Nanoseconds newest = 0;
  for (const Nanoseconds each : due) {
    EXPECT_GT(each, newest - 4 * kMs);
    newest = std::max(newest, each);
  }
}

TEST(Lane, LosesTheShareItWasAsked) {
  Lane lane({.loss = 0.01}, 11);
  const auto due = send(lane, 100'000, kMs);
  const auto lost = std::count(due.begin(), due.end(), -1);
  EXPECT_NEAR(static_cast<double>(lost), 1000, 5 * 31.5);  // five standard deviations
  EXPECT_EQ(lane.lost(), lost);
  EXPECT_EQ(lane.packets(), 100'000 - lost);
}

TEST(Lane, IsAPartitionAtLossOneAndHeals) {
  Lane lane({.loss = 1}, 11);
  const auto none = send(lane, 1000, kMs);
  EXPECT_EQ(std::count(none.begin(), none.end(), -1), 1000);
  lane.set_shape({});
  const auto all = send(lane, 1000, kMs, 1000 * kMs);
  EXPECT_EQ(std::count(all.begin(), all.end(), -1), 0);
}

TEST(Lane, TheSameSeedLosesTheSamePacketsWhateverElseChanges) {
  Lane a({.loss = 0.2}, 42), b({.delay = 5 * kMs, .jitter = kMs, .loss = 0.2}, 42), c({.loss = 0.2}, 43);
  const auto of = [](Lane& lane) {
    std::vector<bool> lost;
    for (const Nanoseconds due : send(lane, 1000, 100 * kMs)) lost.push_back(due < 0);
    return lost;
  };
  const auto lost = of(a);
  EXPECT_EQ(lost, of(b));
  EXPECT_NE(lost, of(c));
}

TEST(Lane, SendsNoFasterThanItsRate) {
  Lane lane({.delay = 10 * kMs, .rate = 12e6}, 1);  // 1500 bytes take 1 ms
  const auto due = send(lane, 100, 0);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(due[static_cast<std::size_t>(i)], (i + 1) * kMs + 10 * kMs);
}

TEST(Lane, AnIdleLineSavesNoCreditForABurst) {
  Lane lane({.rate = 12e6}, 1);
  send(lane, 1, 0);
  const auto due = send(lane, 10, 0, 1000 * kMs);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(due[static_cast<std::size_t>(i)], 1000 * kMs + (i + 1) * kMs);
}

TEST(Lane, DropsWhatWouldWaitLongerThanItsBuffer) {
  Lane lane({.rate = 12e6, .buffer = 50 * kMs}, 1);
  const auto due = send(lane, 200, 0);
  EXPECT_EQ(std::count(due.begin(), due.end(), -1), 200 - 51);  // one on the line, fifty behind it
  EXPECT_EQ(lane.overflowed(), 200 - 51);
  EXPECT_EQ(*std::max_element(due.begin(), due.end()), 51 * kMs);
}

TEST(Lane, HasABoundForWhatIsUnderWay) {
  Lane lane({.delay = 1000 * kMs}, 1);
  std::int64_t carried = 0;
  while (lane.offer(0, 1500).fate == Fate::kCarried) ++carried;
  EXPECT_EQ(carried, Lane::kUnderWayBytesMax / 1500);
  lane.arrive(1500);
  EXPECT_EQ(lane.offer(0, 1500).fate, Fate::kCarried);
}

TEST(Lane, AShorterDelayDoesNotOvertakeWhatIsUnderWay) {
  Lane lane({.delay = 80 * kMs}, 1);
  const Passage slow = lane.offer(0, 1500);
  lane.set_shape({.delay = kMs});
  EXPECT_EQ(lane.offer(kMs, 1500).due, slow.due);
  EXPECT_EQ(lane.offer(100 * kMs, 1500).due, 101 * kMs);
}

TEST(Lateness, NamesTheBucketOfAQuantile) {
  Lateness lateness;
  EXPECT_EQ(lateness.quantile_us(0.5), 0);
  for (int i = 1; i <= 1000; ++i) lateness.observe(i * 1000);
  lateness.observe(-5);
  EXPECT_NEAR(lateness.quantile_us(0.5), 500, 500 / 8.0);
  EXPECT_NEAR(lateness.quantile_us(0.99), 990, 990 / 8.0);
}

}  // namespace
}  // namespace starling::testbed
