// A request for tests: one FP32 input "x" of `rows` rows and a result to wait for.
#pragma once

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "request.h"

namespace starling::testing {

class TestRequest final : public Request {
 public:
  explicit TestRequest(std::int64_t n_rows = 1, std::int64_t width = 4, float value = 0) {
    values_.assign(static_cast<std::size_t>(n_rows * width), value);
    InputTensor tensor;
    tensor.name = "x";
    tensor.data_type = DataType::kFp32;
    tensor.shape = {n_rows, width};
    tensor.size_bytes = values_.size() * sizeof(float);
    tensor.data.emplace_back(reinterpret_cast<const std::uint8_t*>(values_.data()), tensor.size_bytes);
    inputs.push_back(tensor);
    rows = n_rows;
    size_bytes = tensor.size_bytes;
    arrival = Clock::now();
  }

  void complete(Result&& result) noexcept override {
    const std::lock_guard lock(mutex_);
    ++completions;
    answered_on = std::this_thread::get_id();
    result_ = std::move(result);
    ready_.notify_all();
  }

  // Fails the test by throwing when no answer comes within five seconds.
  const Result& wait() {
    std::unique_lock lock(mutex_);
    if (!ready_.wait_for(lock, std::chrono::seconds(5), [this] { return result_.has_value(); })) {
      throw std::runtime_error("no answer within 5 s");
    }
    return *result_;
  }

  bool done() {
    const std::lock_guard lock(mutex_);
    return result_.has_value();
  }

  std::vector<float>& values() { return values_; }
  int completions = 0;
  std::thread::id answered_on;

 private:
  std::vector<float> values_;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::optional<Result> result_;
};

inline std::vector<float> floats(const OutputTensor& output) {
  std::vector<float> out(output.size / sizeof(float));
  std::memcpy(out.data(), output.buffer->data() + output.offset, output.size);
  return out;
}

}  // namespace starling::testing
