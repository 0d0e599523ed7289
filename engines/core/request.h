// A request as the scheduler sees it: validated inputs, a deadline, and one way to be answered.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "status.h"
#include "tensor.h"

namespace starling {

using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;

inline std::int64_t microseconds_between(TimePoint from, TimePoint to) noexcept {
  return std::chrono::duration_cast<std::chrono::microseconds>(to - from).count();
}

// Borrowed bytes in one or more pieces, as they came off the wire.
using Spans = std::vector<std::span<const std::uint8_t>>;

// Bytes of a tensor that lie outside of this process, and are copied into the batch from where they are. Whoever owns
// them may change them, or take them away, at any time.
class ByteSource {
 public:
  virtual ~ByteSource() = default;

  // Fills `out`, or says why it can not.
  virtual Status read(std::span<std::uint8_t> out) const = 0;
};

// A place outside of this process for the bytes of an output, written out of the engine's memory.
class ByteSink {
 public:
  virtual ~ByteSink() = default;

  virtual Status write(const TensorSpec& output, std::span<const std::uint8_t> bytes) const = 0;
};

// One input tensor. Borrows its bytes until the request is completed.
struct InputTensor {
  std::string name;
  DataType data_type = DataType::kUnspecified;
  Shape shape;
  Spans data;
  std::uint64_t size_bytes = 0;
  std::shared_ptr<const ByteSource> source = nullptr;  // instead of `data`
};

// Memory that outputs of a whole batch share; freed with the last response that refers to it.
class Buffer {
 public:
  explicit Buffer(std::size_t size) : bytes_(std::make_unique_for_overwrite<std::uint8_t[]>(size)), size_(size) {}
  std::uint8_t* data() noexcept { return bytes_.get(); }
  const std::uint8_t* data() const noexcept { return bytes_.get(); }
  std::size_t size() const noexcept { return size_; }

 private:
  std::unique_ptr<std::uint8_t[]> bytes_;
  std::size_t size_;
};

// One output tensor of one request: rows of a shared buffer.
struct OutputTensor {
  const TensorSpec* spec = nullptr;  // lives as long as the model
  Shape shape;
  std::shared_ptr<const Buffer> buffer;  // null: it was written to the request's sink
  std::size_t offset = 0;
  std::size_t size = 0;
};

// Where the time of one request went, and what was expected of it.
struct Timing {
  std::int64_t queue_us = 0;       // arrival to start of the engine
  std::int64_t batch_wait_us = 0;  // the part of it after an engine was free: waiting for others to join
  std::int64_t compute_us = 0;
  std::int64_t total_us = 0;
  std::int64_t predicted_us = 0;  // arrival to completion as predicted at admission; 0: not admitted
  std::int64_t slack_us = 0;      // deadline minus completion; negative when late
  std::int32_t batch_size = 0;
};

struct Result {
  Status status;
  std::vector<OutputTensor> outputs;  // signature order; empty unless ok
  Timing timing;
};

class Scheduler;
class Sequence;

// The base of every request. Whoever submits it keeps it alive until complete() is called, exactly once,
// on any thread, with no lock held.
class Request {
 public:
  virtual ~Request() = default;
  virtual void complete(Result&& result) noexcept = 0;

  std::vector<InputTensor> inputs;                     // signature order once admitted
  std::vector<std::shared_ptr<const ByteSink>> sinks;  // by output, null for those that are wanted here; empty: all are
  std::int64_t rows = 1;
  TimePoint arrival;
  TimePoint deadline = TimePoint::max();
  TimePoint due = TimePoint::max();  // when it should be answered: the deadline, or sooner for an objective's sake
  std::int32_t priority = 0;         // 0 to 3, 3 is the most urgent
  std::string tenant;                // who pays for the engine time
  std::string stream_id;             // empty: no stream
  std::int64_t sequence = 0;         // position in the stream
  std::string sequence_id;           // whose state a stateful model goes on with; empty: none
  bool sequence_start = false;
  bool sequence_end = false;
  std::uint64_t size_bytes = 0;
  std::int64_t predicted_us = 0;             // completion as predicted at admission, from arrival
  Timing timing;                             // of its run, as far as that has come; batch_size 0: it has not begun
  std::shared_ptr<Sequence> sequence_state;  // while the model that holds it has it in the line of a sequence

  // The stream, whoever else uses its name: tenants choose names without knowing of each other. No header holds a
  // NUL, so no two pairs share a key.
  std::string stream_key() const { return tenant + '\0' + stream_id; }

  // Set by whoever learns that nobody waits any more; read before a batch forms.
  std::atomic<bool> cancelled{false};

 private:
  friend class Scheduler;
  std::uint64_t ticket_ = 0;
  std::uint64_t stream_ = 0;  // hash of its stream; 0: none
  // The scheduler that holds it. A request may be offered to one model after another, and whoever cancels it may
  // know only an earlier one; written under the lock of the model whose scheduler it names.
  std::atomic<const Scheduler*> queued_in_{nullptr};
  bool probe_ = false;
  bool beyond_share_ = false;  // admitted although its tenant's credit does not reach to it
};

}  // namespace starling
