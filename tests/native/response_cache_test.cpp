#include "response_cache.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>

namespace starling {
namespace {

using namespace std::chrono_literals;

constexpr TimePoint kStart{std::chrono::hours(1)};

struct Question {
  std::vector<std::vector<std::uint8_t>> bytes;
  std::vector<InputTensor> inputs;

  void add(DataType type, const Shape& shape, std::vector<std::uint8_t> data) {
    bytes.push_back(std::move(data));
    InputTensor tensor;
    tensor.name = "x";
    tensor.data_type = type;
    tensor.shape = shape;
    tensor.size_bytes = bytes.back().size();
    inputs.push_back(tensor);
    for (std::size_t i = 0; i < inputs.size(); ++i) inputs[i].data = {{bytes[i].data(), bytes[i].size()}};
  }
};

Question ask(DataType type, const Shape& shape, std::vector<std::uint8_t> data) {
  Question question;
  question.add(type, shape, std::move(data));
  return question;
}

std::vector<OutputTensor> answer(std::uint8_t value, std::size_t size = 16) {
  auto buffer = std::make_shared<Buffer>(size);
  std::memset(buffer->data(), value, size);
  return {{nullptr, {1, static_cast<std::int64_t>(size)}, buffer, 0, size}};
}

TEST(ResponseCache, TheSameBytesGetTheSameAnswer) {
  ResponseCache cache({}, 1);
  const auto key = cache.key(1, ask(DataType::kUint8, {1, 4}, {1, 2, 3, 4}).inputs);
  EXPECT_FALSE(cache.lookup(key, kStart));
  EXPECT_TRUE(cache.put(key, answer(7), kStart));
  const auto found = cache.lookup(cache.key(1, ask(DataType::kUint8, {1, 4}, {1, 2, 3, 4}).inputs), kStart + 5ms);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->outputs[0].buffer->data()[0], 7);
  EXPECT_EQ(found->age, 5ms);
  EXPECT_EQ(cache.stats().hits, 1U);
  EXPECT_EQ(cache.stats().misses, 1U);
}

TEST(ResponseCache, ModelTypeShapeAndBordersBelongToTheQuestion) {
  ResponseCache cache({}, 1);
  std::vector<ResponseKey> keys;
  keys.push_back(cache.key(1, ask(DataType::kUint8, {1, 4}, {1, 2, 3, 4}).inputs));
  keys.push_back(cache.key(2, ask(DataType::kUint8, {1, 4}, {1, 2, 3, 4}).inputs));
  keys.push_back(cache.key(1, ask(DataType::kInt8, {1, 4}, {1, 2, 3, 4}).inputs));
  keys.push_back(cache.key(1, ask(DataType::kUint8, {1, 2, 2}, {1, 2, 3, 4}).inputs));
  keys.push_back(cache.key(1, ask(DataType::kUint8, {1, 4}, {1, 2, 3, 5}).inputs));
  auto two = ask(DataType::kUint8, {1, 1}, {1});
  two.add(DataType::kUint8, {1, 3}, {2, 3, 4});
  keys.push_back(cache.key(1, two.inputs));
  auto other_two = ask(DataType::kUint8, {1, 3}, {1, 2, 3});
  other_two.add(DataType::kUint8, {1, 1}, {4});
  keys.push_back(cache.key(1, other_two.inputs));
  two.inputs[0].size_bytes = 3;  // as far as the key is concerned, shapes may lie
  two.inputs[1].size_bytes = 1;
  keys.push_back(cache.key(1, two.inputs));
  keys.push_back(cache.key(1, {}));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) EXPECT_NE(keys[i], keys[j]) << i << " and " << j;
  }
}

TEST(ResponseCache, PiecesOfAnInputDoNotMatter) {
  ResponseCache cache({}, 1);
  std::vector<std::uint8_t> bytes(5000);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i * 31);
  auto question = ask(DataType::kUint8, {1, 5000}, bytes);
  const auto whole = cache.key(1, question.inputs);
  question.inputs[0].data.clear();
  for (std::size_t at = 0; at < bytes.size(); at += 777) {
    question.inputs[0].data.emplace_back(bytes.data() + at, std::min<std::size_t>(777, bytes.size() - at));
  }
  EXPECT_EQ(cache.key(1, question.inputs), whole);
}

TEST(ResponseCache, AnswersEndWithTheirTimeToLive) {
  ResponseCache cache({100, 1 << 20, 1s}, 1);
  const auto key = cache.key(1, ask(DataType::kUint8, {1, 1}, {1}).inputs);
  cache.put(key, answer(1), kStart);
  EXPECT_TRUE(cache.lookup(key, kStart + 1s));
  EXPECT_FALSE(cache.lookup(key, kStart + 1001ms));
  EXPECT_EQ(cache.stats().entries, 0U);
  EXPECT_EQ(cache.stats().expirations, 1U);
  cache.put(key, answer(1), kStart);
  EXPECT_EQ(cache.purge(kStart + 2s), 1U);
}

TEST(ResponseCache, BytesAreBoundedAndTheOldestGoesFirst) {
  ResponseCache cache({10, 1 << 20, 1s}, 1);
  std::vector<ResponseKey> keys;
  for (std::uint8_t i = 0; i < 20; ++i) {
    keys.push_back(cache.key(1, ask(DataType::kUint8, {1, 1}, {i}).inputs));
    EXPECT_TRUE(cache.put(keys.back(), answer(i), kStart));
    EXPECT_TRUE(cache.lookup(keys.front(), kStart)) << "used all the time";
  }
  EXPECT_EQ(cache.stats().entries, 10U);
  EXPECT_EQ(cache.stats().evictions, 10U);
  EXPECT_FALSE(cache.lookup(keys[1], kStart));
  EXPECT_TRUE(cache.lookup(keys[19], kStart));
  EXPECT_FALSE(cache.put(cache.key(1, {}), answer(1, 2 << 20), kStart));
  EXPECT_EQ(cache.stats().oversized, 1U);
}

TEST(ResponseCache, AModelCanBeForgotten) {
  ResponseCache cache({}, 1);
  for (std::uint64_t model = 1; model <= 2; ++model) {
    for (std::uint8_t i = 0; i < 20; ++i) {
      cache.put(cache.key(model, ask(DataType::kUint8, {1, 1}, {i}).inputs), answer(i), kStart);
    }
  }
  EXPECT_EQ(cache.remove_model(1), 20U);
  EXPECT_EQ(cache.remove_model(1), 0U);
  EXPECT_EQ(cache.stats().entries, 20U);
}

TEST(ResponseCache, AnAnswerOutlivesItsEntry) {
  ResponseCache cache({1, 1 << 20, 1s}, 1);
  const auto first = cache.key(1, ask(DataType::kUint8, {1, 1}, {1}).inputs);
  cache.put(first, answer(1), kStart);
  const auto found = cache.lookup(first, kStart);
  cache.put(cache.key(1, ask(DataType::kUint8, {1, 1}, {2}).inputs), answer(2), kStart);
  EXPECT_FALSE(cache.lookup(first, kStart));
  EXPECT_EQ(found->outputs[0].buffer->data()[0], 1);
}

TEST(ResponseCache, ManyThreadsFindTheirOwnAnswers) {
  constexpr int kThreads = 4;
  constexpr int kTurns = 2000;
  ResponseCache cache({512, 200'000, 1s}, 99);
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::mt19937 rng(static_cast<unsigned>(t));
      for (int i = 0; i < kTurns; ++i) {
        const auto value = static_cast<std::uint8_t>(rng());
        const auto key = cache.key(value % 2U, ask(DataType::kUint8, {1, 1}, {value}).inputs);
        const auto now = kStart + std::chrono::milliseconds(i);
        const auto found = cache.lookup(key, now);
        if (found && found->outputs[0].buffer->data()[0] != value) ++wrong;
        if (!found) cache.put(key, answer(value), now);
        if (rng() % 500 == 0) cache.remove_model(value % 2U);
        if (rng() % 500 == 0) cache.purge(now);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
  const auto stats = cache.stats();
  EXPECT_EQ(stats.hits + stats.misses, static_cast<std::uint64_t>(kThreads * kTurns));
  EXPECT_LE(stats.bytes, 200'000U);
}

}  // namespace
}  // namespace starling
