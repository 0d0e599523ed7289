// Everything at once for a second and a half: the test to run under a sanitizer.
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <limits>
#include <random>

#include "model.h"
#include "scripted_engine.h"

namespace starling {
namespace {

using std::chrono::hours;
using std::chrono::microseconds;
using std::chrono::milliseconds;
using testing::ScriptedEngine;

constexpr milliseconds kLasts{1500};
constexpr std::size_t kClients = 4;
constexpr std::size_t kOutstanding = 64;

// What all requests have seen together.
struct Counts {
  std::atomic<int> alive{0};
  std::atomic<std::uint64_t> submitted{0};  // to one model after another
  std::atomic<std::uint64_t> completed{0};  // by one model after another
  std::atomic<std::uint64_t> answered{0};
  std::atomic<std::uint64_t> wrong{0};  // answers that are not the inputs
  std::atomic<std::uint64_t> cancelled{0};
};

// Walks down its models until one answers, as a call with alternatives does.
class StressRequest final : public Request {
 public:
  StressRequest(Counts& counts, std::vector<Model*> ladder, Shape shape, float value)
      : counts_(counts), ladder_(std::move(ladder)) {
    ++counts_.alive;
    values_.assign(static_cast<std::size_t>(shape[0] * shape[1]), value);
    size_bytes = values_.size() * sizeof(float);
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(values_.data());
    inputs.push_back({"x", DataType::kFp32, std::move(shape), {{bytes, size_bytes}}, size_bytes});
    arrival = Clock::now();
  }
  ~StressRequest() override { --counts_.alive; }

  void attempt() {
    auto* model = ladder_[next_++];
    current_ = model;
    ++counts_.submitted;
    model->submit(*this);
  }

  void abandon() {
    ++counts_.cancelled;
    cancelled = true;
    current_.load()->cancel(*this);
  }

  void complete(Result&& result) noexcept override {
    ++counts_.completed;
    if (!result.status.ok() && next_ < ladder_.size() && !cancelled) return attempt();
    if (result.status.ok()) {
      ++counts_.answered;
      const auto& output = result.outputs.front();
      const bool same = output.size == size_bytes && output.shape == inputs.front().shape &&
                        std::memcmp(output.buffer->data() + output.offset, values_.data(), size_bytes) == 0;
      if (!same) ++counts_.wrong;
    }
    const std::lock_guard lock(mutex_);
    ++completions_;
    done_.notify_all();
  }

  // How often it was completed, once it was; 0 when it was not within ten seconds.
  int wait() {
    std::unique_lock lock(mutex_);
    done_.wait_for(lock, std::chrono::seconds(10), [this] { return completions_ > 0; });
    return completions_;
  }

 private:
  Counts& counts_;
  const std::vector<Model*> ladder_;
  std::size_t next_ = 0;
  std::atomic<Model*> current_{nullptr};
  std::vector<float> values_;
  std::mutex mutex_;
  std::condition_variable done_;
  int completions_ = 0;
};

ModelConfig config_of(const std::string& name, int instances) {
  ModelConfig config;
  config.name = name;
  config.backend = "identity";
  config.signature = {{{"x", DataType::kFp32, {-1}}}, {{"y", DataType::kFp32, {-1}}}};
  config.buckets = {1, 2, 4};
  config.instances = instances;
  config.queue.requests_max = 32;
  return config;
}

template <class Random>
TimePoint some_deadline(Random& random) {
  const auto now = Clock::now();
  switch (random() % 8) {
    case 0:
      return TimePoint::max();
    case 1:
      return TimePoint::max() - microseconds(1);
    case 2:
      return now + hours(24 * 365 * 100);
    case 3:
      return now - hours(24 * 365 * 100);
    case 4:
      return now - microseconds(1);
    default:
      return now + microseconds(random() % 20'000);
  }
}

TEST(Stress, EveryRequestIsAnsweredOnceWhateverClientsAndEnginesDo) {
  std::atomic<bool> faulty = false;
  std::atomic<bool> hangs = true;
  std::atomic<std::uint64_t> runs = 0;
  std::atomic<int> thrown = 0;
  const auto make = [](ModelConfig config, std::function<void()> before_run) {
    auto engine = std::make_unique<ScriptedEngine>(config.signature, config.instances, std::move(before_run));
    auto model = std::make_unique<Model>(std::move(config), std::move(engine));
    model->warm_up();
    return model;
  };
  std::vector<std::unique_ptr<Model>> models;
  models.push_back(make(config_of("quick", 2), [] {}));
  models.push_back(make(config_of("steady", 2), [] { std::this_thread::sleep_for(microseconds(300)); }));
  models.push_back(make(config_of("throws", 1), [&] {
    std::this_thread::sleep_for(microseconds(200));
    if (!faulty || ++runs % 5 != 0) return;
    ++thrown;
    throw std::runtime_error("out of luck");
  }));
  auto hanging = config_of("hangs", 2);
  hanging.watchdog_us = 20'000;
  std::atomic<std::uint64_t> hanging_runs = 0;
  models.push_back(make(hanging, [&] {
    std::this_thread::sleep_for(microseconds(200));
    if (!faulty) return;
    const auto n = ++hanging_runs;
    if (n == 20) hangs.wait(true);  // until the end
    if (n % 50 == 0) std::this_thread::sleep_for(milliseconds(60));
  }));
  faulty = true;

  Counts counts;
  const auto until = Clock::now() + kLasts;
  std::vector<std::thread> clients;
  for (std::size_t c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      std::mt19937 random(static_cast<std::uint32_t>(c));
      std::deque<std::unique_ptr<StressRequest>> outstanding;
      const auto settle = [&] {
        EXPECT_EQ(outstanding.front()->wait(), 1);
        outstanding.pop_front();
      };
      for (int i = 0; Clock::now() < until; ++i) {
        std::vector<Model*> ladder;
        for (auto steps = 1 + random() % 4; steps > 0; --steps) ladder.push_back(models[random() % 4].get());
        const Shape shape{static_cast<std::int64_t>(1 + random() % 6),
                          static_cast<std::int64_t>(1 + random() % 3)};  // more rows than any batch has, too
        outstanding.push_back(std::make_unique<StressRequest>(counts, ladder, shape, static_cast<float>(i)));
        auto& request = *outstanding.back();
        request.rows = shape[0];
        request.deadline = some_deadline(random);
        request.priority = static_cast<std::int32_t>(random() % 4);
        request.tenant = std::string(1, static_cast<char>('a' + random() % 3));
        if (random() % 2 == 0) {
          request.stream_id = std::to_string(random() % 4);
          // Mostly forwards, at times back to anywhere.
          const bool jumps = random() % 8 == 0;
          request.sequence = jumps ? std::numeric_limits<std::int64_t>::min() + static_cast<std::int64_t>(random()) : i;
          if (random() % 64 == 0) request.sequence = std::numeric_limits<std::int64_t>::max();
        }
        request.attempt();
        if (random() % 3 == 0) outstanding[random() % outstanding.size()]->abandon();
        if (outstanding.size() == kOutstanding) settle();
      }
      for (auto& request : outstanding) request->abandon();
      while (!outstanding.empty()) settle();
    });
  }
  for (auto& client : clients) client.join();

  EXPECT_EQ(counts.alive, 0);
  EXPECT_EQ(counts.submitted, counts.completed);
  EXPECT_EQ(counts.wrong, 0U);
  EXPECT_GT(counts.answered, 100U);
  EXPECT_GT(counts.cancelled, 1000U);
  EXPECT_GT(thrown, 0);
  std::uint64_t finished = 0;
  for (const auto& model : models) {
    EXPECT_EQ(model->queued(), 0U) << model->config().name;
    EXPECT_EQ(model->stats().expired_executed, 0U) << model->config().name;
    for (const auto& of_reason : model->stats().finished) finished += of_reason;
  }
  EXPECT_EQ(finished, counts.completed);
  EXPECT_GT(models[3]->stats().hung, 0U);
  // Nothing of this is left in those that neither threw nor hung, and the others come back.
  faulty = false;
  hangs = false;
  hangs.notify_all();
  for (const auto& model : models) {
    const auto end = Clock::now() + std::chrono::seconds(10);
    std::uint64_t before = counts.answered;
    for (int tries = 0; counts.answered == before && Clock::now() < end; ++tries) {
      if (tries > 0) std::this_thread::sleep_for(milliseconds(10));
      StressRequest request(counts, {model.get()}, {1, 1}, 0);
      request.attempt();
      EXPECT_EQ(request.wait(), 1);
    }
    EXPECT_EQ(counts.answered, before + 1) << model->config().name;
    EXPECT_EQ(model->drain(Clock::now() + std::chrono::seconds(10)), 0U);
  }
  RecordProperty("requests", std::to_string(counts.submitted));
}

}  // namespace
}  // namespace starling
