#include "frame_cache.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <thread>

namespace starling {
namespace {

using namespace std::chrono_literals;

constexpr TimePoint kStart{std::chrono::hours(1)};

Luma gray(std::uint8_t value, std::int64_t edge = 32) {
  return {edge, edge, edge, edge, std::vector<std::uint8_t>(static_cast<std::size_t>(edge * edge), value)};
}

// A gradient that moves: frames few steps apart are similar, frames many steps apart are not.
Luma moved(int step) {
  Luma luma = gray(0);
  for (std::int64_t i = 0; i < 32 * 32; ++i) {
    const auto x = static_cast<double>(i % 32 + step) * 0.4;
    luma.pixels[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(128 + 100 * std::sin(x));
  }
  return luma;
}

// One output of `size` bytes, all `value`, at the end of a buffer of `buffer_size` bytes.
std::vector<OutputTensor> answer(std::uint8_t value, std::size_t size = 16, std::size_t buffer_size = 16) {
  auto buffer = std::make_shared<Buffer>(buffer_size);
  std::memset(buffer->data(), value, buffer_size);
  return {{nullptr, {1, static_cast<std::int64_t>(size)}, buffer, buffer_size - size, size}};
}

std::uint8_t value_of(const std::vector<OutputTensor>& outputs) {
  return outputs.at(0).buffer->data()[outputs.at(0).offset];
}

TEST(FrameCache, AnIdenticalFrameHitsWithSimilarityOne) {
  FrameCache cache;
  EXPECT_TRUE(cache.put({1, "cam"}, moved(0), answer(7), kStart));
  const auto found = cache.lookup({1, "cam"}, moved(0), kStart + 30ms, {0.95, 100ms});
  EXPECT_TRUE(found.hit());
  EXPECT_EQ(found.similarity, 1.0);
  EXPECT_TRUE(cache.lookup({1, "cam"}, moved(0), kStart + 30ms, {1.0, 30ms}).hit()) << "both bounds are allowed";
  EXPECT_EQ(found.staleness, 30ms);
  EXPECT_EQ(value_of(found.outputs), 7);
  EXPECT_EQ(cache.stats().hits, 2U);
  EXPECT_EQ(cache.stats().misses, 0U);
}

TEST(FrameCache, EveryMissSaysWhy) {
  FrameCache cache;
  cache.put({1, "cam"}, moved(0), answer(7), kStart);
  const FrameTolerance tolerance{0.95, 100ms};
  EXPECT_EQ(cache.lookup({1, "other"}, moved(0), kStart, tolerance).match, FrameMatch::kUnknownStream);
  EXPECT_EQ(cache.lookup({2, "cam"}, moved(0), kStart, tolerance).match, FrameMatch::kUnknownStream);
  EXPECT_EQ(cache.lookup({1, "cam"}, gray(0, 33), kStart, tolerance).match, FrameMatch::kOtherShape);
  EXPECT_EQ(cache.lookup({1, "cam"}, moved(0), kStart + 101ms, tolerance).match, FrameMatch::kTooOld);
  const auto different = cache.lookup({1, "cam"}, moved(8), kStart + 1ms, tolerance);
  EXPECT_EQ(different.match, FrameMatch::kDifferent);
  EXPECT_LT(different.similarity, 0.5);
  EXPECT_EQ(different.staleness, 1ms);
  EXPECT_TRUE(different.outputs.empty());
  EXPECT_EQ(cache.stats().misses, 5U);
  EXPECT_EQ(cache.count(FrameMatch::kUnknownStream), 2U);
  EXPECT_EQ(name(FrameMatch::kTooOld), "too_old");
}

TEST(FrameCache, SameLumaOfAnotherFrameSizeIsAnotherShape) {
  FrameCache cache;
  cache.put({1, "cam"}, moved(0), answer(7), kStart);
  Luma larger = moved(0);
  larger.frame_width += 1;
  EXPECT_EQ(cache.lookup({1, "cam"}, larger, kStart, {0.95, 1s}).match, FrameMatch::kOtherShape);
}

TEST(FrameCache, AHitDoesNotMakeTheAnswerYounger) {
  FrameCache cache;
  cache.put({1, "cam"}, moved(0), answer(7), kStart);
  for (int i = 1; i <= 10; ++i) EXPECT_TRUE(cache.lookup({1, "cam"}, moved(0), kStart + i * 10ms, {0.9, 100ms}).hit());
  EXPECT_EQ(cache.lookup({1, "cam"}, moved(0), kStart + 101ms, {0.9, 100ms}).match, FrameMatch::kTooOld);
}

TEST(FrameCache, SmallChangesDoNotAddUp) {
  FrameCache cache;
  cache.put({1, "cam"}, moved(0), answer(7), kStart);
  double last = 1;
  bool left = false;
  for (int step = 0; step < 5; ++step) {
    const auto found = cache.lookup({1, "cam"}, moved(step), kStart, {0.8, 1s});
    EXPECT_LE(found.similarity, last) << "always compared with the frame that was answered";
    last = found.similarity;
    left = left || !found.hit();
  }
  EXPECT_TRUE(left);
}

TEST(FrameCache, NoThresholdButANumberCanBeMet) {
  FrameCache cache;
  cache.put({1, "cam"}, moved(0), answer(7), kStart);
  const auto nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(cache.lookup({1, "cam"}, moved(0), kStart, {nan, 1s}).match, FrameMatch::kDifferent);
  EXPECT_TRUE(cache.lookup({1, "cam"}, moved(20), kStart, {-1, 1s}).hit());
}

TEST(FrameCache, ALateAnswerDoesNotReplaceAYoungerOne) {
  FrameCache cache;
  EXPECT_TRUE(cache.put({1, "cam"}, moved(0), answer(2), kStart + 10ms));
  EXPECT_FALSE(cache.put({1, "cam"}, moved(0), answer(1), kStart));
  EXPECT_EQ(value_of(cache.lookup({1, "cam"}, moved(0), kStart + 10ms, {0.9, 1s}).outputs), 2);
  EXPECT_TRUE(cache.put({1, "cam"}, moved(1), answer(3), kStart + 20ms));
  EXPECT_EQ(value_of(cache.lookup({1, "cam"}, moved(1), kStart + 20ms, {0.9, 1s}).outputs), 3);
  EXPECT_EQ(cache.stats().entries, 1U);
}

TEST(FrameCache, AFrameFromBeforeTheAnswerIsFresh) {
  FrameCache cache;
  cache.put({1, "cam"}, moved(0), answer(7), kStart + 5ms);
  const auto found = cache.lookup({1, "cam"}, moved(0), kStart, {0.9, 0ms});
  EXPECT_TRUE(found.hit());
  EXPECT_EQ(found.staleness, 0ms);
}

TEST(FrameCache, ForgetsTheStreamThatWasNotUsedForLongest) {
  FrameCache cache({2, 1 << 20, 10s});
  cache.put({1, "a"}, moved(0), answer(1), kStart);
  cache.put({1, "b"}, moved(0), answer(2), kStart);
  EXPECT_TRUE(cache.lookup({1, "a"}, moved(0), kStart, {0.9, 1s}).hit());
  cache.put({1, "c"}, moved(0), answer(3), kStart);
  EXPECT_TRUE(cache.lookup({1, "a"}, moved(0), kStart, {0.9, 1s}).hit());
  EXPECT_FALSE(cache.lookup({1, "b"}, moved(0), kStart, {0.9, 1s}).hit());
  EXPECT_TRUE(cache.lookup({1, "c"}, moved(0), kStart, {0.9, 1s}).hit());
  EXPECT_EQ(cache.stats().evictions, 1U);
}

TEST(FrameCache, BytesAreCountedAndBounded) {
  FrameCache cache({100, 20'000, 10s});
  for (int i = 0; i < 100; ++i) {
    EXPECT_TRUE(cache.put({1, std::to_string(i)}, moved(0), answer(1, 1000, 1000), kStart));
    EXPECT_LE(cache.stats().bytes, 20'000U);
  }
  const auto stats = cache.stats();
  EXPECT_GE(stats.bytes, stats.entries * (32 * 32 + 1000));
  EXPECT_EQ(stats.entries + stats.evictions, 100U);
  EXPECT_FALSE(cache.put({1, "huge"}, moved(0), answer(1, 30'000, 30'000), kStart));
  EXPECT_EQ(cache.stats().oversized, 1U);
  EXPECT_EQ(cache.stats().entries, stats.entries) << "what cannot be kept pushes nothing out";
}

TEST(FrameCache, ARowDoesNotKeepItsWholeBatchAlive) {
  FrameCache cache;
  auto outputs = answer(9, 100, 1600);
  const std::weak_ptr<const Buffer> batch = outputs[0].buffer;
  cache.put({1, "cam"}, moved(0), std::move(outputs), kStart);
  EXPECT_TRUE(batch.expired());
  const auto found = cache.lookup({1, "cam"}, moved(0), kStart, {0.9, 1s});
  EXPECT_EQ(found.outputs[0].buffer->size(), 100U);
  EXPECT_EQ(value_of(found.outputs), 9);

  auto alone = answer(9, 100, 150);
  const auto* buffer = alone[0].buffer.get();
  cache.put({1, "cam"}, moved(0), std::move(alone), kStart);
  EXPECT_EQ(cache.lookup({1, "cam"}, moved(0), kStart, {0.9, 1s}).outputs[0].buffer.get(), buffer) << "not copied";
}

TEST(FrameCache, AgeEndsAnAnswerWhateverTheRequestAllows) {
  FrameCache cache({100, 1 << 20, 1s});
  cache.put({1, "a"}, moved(0), answer(1), kStart);
  cache.put({1, "b"}, moved(0), answer(1), kStart + 900ms);
  EXPECT_EQ(cache.lookup({1, "a"}, moved(0), kStart + 1001ms, {0.9, 1h}).match, FrameMatch::kUnknownStream);
  EXPECT_EQ(cache.stats().expirations, 1U);
  EXPECT_EQ(cache.stats().entries, 1U);
  EXPECT_EQ(cache.purge(kStart + 1900ms), 0U);
  EXPECT_EQ(cache.purge(kStart + 1901ms), 1U);
  EXPECT_EQ(cache.stats().expirations, 2U);
  cache.put({1, "c"}, moved(0), answer(1), kStart);
  cache.put({1, "d"}, moved(0), answer(1), kStart + 5s);
  EXPECT_EQ(cache.stats().entries, 1U) << "a younger answer drops what is too old";
  EXPECT_EQ(cache.stats().evictions, 0U);
}

TEST(FrameCache, StreamsAndModelsCanBeForgotten) {
  FrameCache cache;
  for (const std::uint64_t model : {1U, 2U}) {
    for (int s = 0; s < 50; ++s) cache.put({model, std::to_string(s)}, moved(0), answer(1), kStart);
  }
  EXPECT_TRUE(cache.remove_stream({1, "7"}));
  EXPECT_FALSE(cache.remove_stream({1, "7"}));
  EXPECT_EQ(cache.remove_model(1), 49U);
  EXPECT_EQ(cache.stats().entries, 50U);
  EXPECT_EQ(cache.remove_model(2), 50U);
  EXPECT_EQ(cache.stats().bytes, 0U);
}

TEST(FrameCache, KeepsNothingWhenItHasNoRoom) {
  FrameCache cache({0, 1 << 20, 1s});
  EXPECT_FALSE(cache.put({1, "cam"}, moved(0), answer(1), kStart));
  FrameCache no_bytes({10, 0, 1s});
  EXPECT_FALSE(no_bytes.put({1, "cam"}, moved(0), answer(1), kStart));
}

TEST(FrameCache, ManyThreadsFindTheirOwnAnswers) {
  constexpr int kThreads = 4;
  constexpr int kTurns = 1500;
  FrameCache cache({256, 300'000, 1s});
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 rng(static_cast<unsigned>(t));
      for (int i = 0; i < kTurns; ++i) {
        const auto stream = static_cast<std::uint8_t>(rng() % 200);
        const StreamKey key{stream % 3U, std::to_string(stream)};
        const auto now = kStart + std::chrono::milliseconds(i);
        const auto found = cache.lookup(key, gray(stream), now, {0.99, 1s});
        if (found.hit() && value_of(found.outputs) != stream) ++wrong;
        if (!found.hit()) cache.put(key, gray(stream), answer(stream, 16, 64), now);
        if (rng() % 50 == 0) cache.remove_stream(key);
        if (rng() % 500 == 0) cache.remove_model(stream % 3U);
        if (rng() % 500 == 0) cache.purge(now);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const auto stats = cache.stats();
  EXPECT_EQ(stats.hits + stats.misses, static_cast<std::uint64_t>(kThreads * kTurns));
  EXPECT_LE(stats.entries, 256U);
  EXPECT_LE(stats.bytes, 300'000U);
}

}  // namespace
}  // namespace starling
