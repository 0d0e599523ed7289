#include "deadline_queue.h"

#include <gtest/gtest.h>

#include <random>

#include "test_request.h"

namespace starling {
namespace {

using std::chrono::milliseconds;
using testing::TestRequest;

// Virtual time: the queue takes the clock as an argument.
const TimePoint kNow{std::chrono::hours(1)};

std::unique_ptr<TestRequest> due_in(int ms, std::int64_t rows = 1, std::int64_t width = 4, int priority = 0) {
  auto request = std::make_unique<TestRequest>(rows, width);
  request->deadline = kNow + milliseconds(ms);
  request->priority = priority;
  return request;
}

TEST(DeadlineQueue, EarliestDeadlineLeavesFirst) {
  DeadlineQueue queue({});
  auto late = due_in(30);
  auto soon = due_in(10);
  auto middle = due_in(20);
  for (auto* r : {late.get(), soon.get(), middle.get()}) ASSERT_TRUE(queue.try_push(*r));
  EXPECT_EQ(queue.take(2), (std::vector<Request*>{soon.get(), middle.get()}));
  EXPECT_EQ(queue.take(2), (std::vector<Request*>{late.get()}));
  EXPECT_TRUE(queue.empty());
}

TEST(DeadlineQueue, UrgentClassGoesBeforeAnEarlierDeadline) {
  DeadlineQueue queue({});
  auto soon = due_in(1);
  auto urgent = due_in(100, 1, 4, 3);
  queue.try_push(*soon);
  queue.try_push(*urgent);
  EXPECT_EQ(queue.first(), urgent.get());
}

TEST(DeadlineQueue, EqualDeadlinesKeepArrivalOrder) {
  DeadlineQueue queue({});
  auto a = due_in(10);
  auto b = due_in(10);
  queue.try_push(*a);
  queue.try_push(*b);
  EXPECT_EQ(queue.take(8), (std::vector<Request*>{a.get(), b.get()}));
}

TEST(DeadlineQueue, ExpiredAndCancelledNeverReachABatch) {
  DeadlineQueue queue({});
  auto expired = due_in(0);
  auto cancelled = due_in(10);
  auto alive = due_in(20);
  for (auto* r : {expired.get(), cancelled.get(), alive.get()}) queue.try_push(*r);
  cancelled->cancelled = true;
  const auto purged = queue.purge(kNow);
  EXPECT_EQ(purged.expired, (std::vector<Request*>{expired.get()}));
  EXPECT_EQ(purged.cancelled, (std::vector<Request*>{cancelled.get()}));
  EXPECT_EQ(queue.take(8), (std::vector<Request*>{alive.get()}));
}

TEST(DeadlineQueue, OnlyEqualShapesShareABatch) {
  DeadlineQueue queue({});
  auto narrow = due_in(10, 1, 4);
  auto wide = due_in(11, 1, 8);
  auto narrow_too = due_in(12, 2, 4);
  for (auto* r : {narrow.get(), wide.get(), narrow_too.get()}) queue.try_push(*r);
  EXPECT_EQ(queue.compatible_rows(), 3);
  EXPECT_EQ(queue.take(8), (std::vector<Request*>{narrow.get(), narrow_too.get()}));
  EXPECT_EQ(queue.take(8), (std::vector<Request*>{wide.get()}));
}

TEST(DeadlineQueue, BoundsCountAndBytes) {
  DeadlineQueue by_count({2, 1 << 20});
  DeadlineQueue by_bytes({100, 40});
  std::vector<std::unique_ptr<TestRequest>> requests;
  for (int i = 0; i < 6; ++i) requests.push_back(due_in(i + 1));
  EXPECT_TRUE(by_count.try_push(*requests[0]));
  EXPECT_TRUE(by_count.try_push(*requests[1]));
  EXPECT_FALSE(by_count.try_push(*requests[2]));
  EXPECT_TRUE(by_bytes.try_push(*requests[3]));  // 16 bytes each
  EXPECT_TRUE(by_bytes.try_push(*requests[4]));
  EXPECT_FALSE(by_bytes.try_push(*requests[5]));
  EXPECT_EQ(by_bytes.size_bytes(), 32U);
}

TEST(DeadlineQueue, NothingIsLostOrDoubledUnderRandomUse) {
  for (unsigned seed = 0; seed < 300; ++seed) {
    std::mt19937 rng(seed);
    DeadlineQueue queue({16, 1 << 20});
    std::vector<std::unique_ptr<TestRequest>> all;
    std::map<Request*, int> left;
    std::vector<Request*> inside;
    const auto count = [&](const std::vector<Request*>& some) {
      for (auto* r : some) {
        ++left[r];
        inside.erase(std::find(inside.begin(), inside.end(), r));
      }
    };
    auto now = kNow;
    for (int step = 0; step < 80; ++step) {
      now += milliseconds(rng() % 5);
      switch (rng() % 5) {
        case 0:
        case 1:
          all.push_back(due_in(static_cast<int>(rng() % 200), 1 + rng() % 3, 1 + rng() % 2, rng() % 4));
          if (queue.try_push(*all.back())) inside.push_back(all.back().get());
          break;
        case 2: {
          const auto purged = queue.purge(now);
          for (auto* r : purged.expired) EXPECT_LE(r->deadline, now);
          count(purged.expired);
          count(purged.cancelled);
          if (queue.empty()) break;
          const auto max_rows = static_cast<std::int64_t>(1 + rng() % 6);
          const auto first = queue.first();
          const auto batch = queue.take(max_rows);
          EXPECT_EQ(batch.front(), first);
          std::int64_t rows = 0;
          for (auto* r : batch) {
            EXPECT_GT(r->deadline, now);
            EXPECT_TRUE(same_shapes(*batch.front(), *r));
            rows += r->rows;
          }
          EXPECT_LE(rows, std::max(max_rows, first->rows));
          count(batch);
          break;
        }
        case 3:
          if (!inside.empty()) inside[rng() % inside.size()]->cancelled = true;
          break;
        default:
          if (!inside.empty()) {
            auto* r = inside[rng() % inside.size()];
            EXPECT_TRUE(queue.remove(*r));
            EXPECT_FALSE(queue.remove(*r));
            count({r});
          }
      }
      std::int64_t rows = 0;
      for (auto* r : inside) rows += r->rows;
      ASSERT_EQ(queue.rows(), rows);
      ASSERT_EQ(queue.size(), inside.size());
    }
    count(queue.drain());
    for (const auto& [request, times] : left) EXPECT_EQ(times, 1);
    EXPECT_TRUE(inside.empty());
    EXPECT_EQ(queue.size_bytes(), 0U);
  }
}

}  // namespace
}  // namespace starling
