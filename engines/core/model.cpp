#include "model.h"

#include <algorithm>
#include <cstring>

namespace starling {
namespace {

using std::chrono::microseconds;

// Below this engine time a hand-over to a worker thread costs more than the run itself.
constexpr std::int64_t kInlineBelowUs = 50;
constexpr int kWarmUpRuns = 20;
constexpr std::int64_t kWarmUpBudgetUs = 200'000;
// Stands for a free dimension while warming up; detectors resize, so their time hardly depends on it.
constexpr std::int64_t kFreeDimension = 256;
// A batch of more input than this is a mistake in the configuration, not a model.
constexpr std::uint64_t kBatchBytesMax = std::uint64_t{1} << 30;
constexpr std::chrono::seconds kWaitSlice{1};

std::size_t row_bytes(DataType type, const Shape& shape) {
  std::int64_t n = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) n *= shape[i];
  return static_cast<std::size_t>(n) * width(type);
}

std::string got(const InputTensor& input) { return std::string(name(input.data_type)) + to_string(input.shape); }

}  // namespace

Model::Model(ModelConfig config, std::unique_ptr<Engine> engine)
    : config_(std::move(config)),
      engine_(std::move(engine)),
      queue_(config_.queue),
      slots_(static_cast<std::size_t>(engine_->slots())) {
  for (const auto rows : config_.buckets) {
    bucket_stats_.push_back(std::make_unique<BucketStats>());
    bucket_stats_.back()->rows = rows;
  }
  for (int i = 0; i < engine_->slots(); ++i) {
    slots_[i].inputs.resize(config_.signature.inputs.size());
    free_slots_.push_back(i);
  }
  for (int i = 0; i < engine_->slots(); ++i) workers_.emplace_back([this] { work(); });
}

Model::~Model() { drain(Clock::now()); }

void Model::warm_up() {
  for (std::size_t b = 0; b < bucket_stats_.size(); ++b) {
    auto& stats = *bucket_stats_[b];
    std::vector<std::vector<std::uint8_t>> zeros;
    Batch batch;
    batch.bucket = stats.rows;
    for (const auto& spec : config_.signature.inputs) {
      Shape shape{stats.rows};
      for (const auto d : spec.dims) shape.push_back(d < 0 ? kFreeDimension : d);
      const auto size = byte_size(spec.data_type, shape.data(), shape.size());
      if (!size || *size > kBatchBytesMax) {
        throw Error(Reason::kInvalidConfig, config_.name + ":" + std::to_string(config_.version) + " input \"" +
                                                spec.name + "\" is " + to_string(spec) + ", in a batch of " +
                                                std::to_string(stats.rows) + " more than " +
                                                std::to_string(kBatchBytesMax) + " bytes; correct config.pbtxt");
      }
      zeros.emplace_back(*size);
      batch.inputs.push_back({zeros.back().data(), shape});
    }
    const auto begin = Clock::now();
    for (int run = 0; run <= kWarmUpRuns; ++run) {
      std::string error;
      const auto start = Clock::now();
      engine_->submit(batch, [&error](const std::string& e) { error = e; });
      const auto took = microseconds_between(start, Clock::now());
      if (!error.empty() && config_.identity_fail_every == 0) {
        throw Error(Reason::kEngineFailed, config_.name + ":" + std::to_string(config_.version) +
                                               " fails on an all-zero batch of " + std::to_string(stats.rows) + ": " +
                                               error);
      }
      if (run == 0) continue;  // the first run allocates
      stats.run.record(took);
      stats.recent_us = run == 1 ? took : stats.recent_us + (took - stats.recent_us) / 8;
      if (microseconds_between(begin, Clock::now()) > kWarmUpBudgetUs) break;
    }
  }
  const std::lock_guard lock(mutex_);
  inline_ = config_.batch_delay_us == 0 && bucket_stats_.front()->recent_us < kInlineBelowUs;
}

Status Model::validate_input(const TensorSpec& spec, const InputTensor& input) const {
  const auto refuse = [&](const std::string& what) {
    Status status{Reason::kInvalidInput, {}, 0, {{"model", config_.name}, {"input", spec.name}}};
    status.message = "signature mismatch: " + config_.name + ":" + std::to_string(config_.version) + " input \"" +
                     spec.name + "\" " + what;
    return status;
  };
  bool fits = input.data_type == spec.data_type && input.shape.size() == spec.dims.size() + 1;
  for (std::size_t i = 0; fits && i < spec.dims.size(); ++i) {
    fits = input.shape[i + 1] > 0 && (spec.dims[i] < 0 || spec.dims[i] == input.shape[i + 1]);
  }
  if (!fits) return refuse("wants " + to_string(spec) + ", got " + got(input) + "; convert or reshape before sending");
  const auto expected = byte_size(input.data_type, input.shape.data(), input.shape.size());
  if (!expected) return refuse("has shape " + to_string(input.shape) + ", whose size overflows; send the true shape");
  if (*expected != input.size_bytes) {
    return refuse("of shape " + to_string(input.shape) + " needs " + std::to_string(*expected) + " bytes, got " +
                  std::to_string(input.size_bytes) + "; send row-major elements without padding");
  }
  return {};
}

// Brings the inputs into signature order as it goes.
Status Model::validate(Request& request) const {
  const auto& specs = config_.signature.inputs;
  const std::string model = config_.name + ":" + std::to_string(config_.version);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    auto it = std::find_if(request.inputs.begin() + static_cast<std::ptrdiff_t>(std::min(i, request.inputs.size())),
                           request.inputs.end(), [&](const InputTensor& t) { return t.name == specs[i].name; });
    if (it == request.inputs.end()) {
      std::string names;
      for (const auto& t : request.inputs) names += (names.empty() ? "\"" : ", \"") + t.name + "\"";
      return {Reason::kInvalidInput,
              "signature mismatch: " + model + " wants input \"" + specs[i].name + "\" " + to_string(specs[i]) +
                  ", got " + (names.empty() ? "no input" : names) + "; send every input of the signature once",
              0,
              {{"model", config_.name}, {"input", specs[i].name}}};
    }
    std::iter_swap(request.inputs.begin() + static_cast<std::ptrdiff_t>(i), it);
    if (auto status = validate_input(specs[i], request.inputs[i]); !status.ok()) return status;
  }
  if (request.inputs.size() > specs.size()) {
    return {Reason::kInvalidInput,
            "signature mismatch: " + model + " has " + std::to_string(specs.size()) + " input(s), \"" +
                request.inputs[specs.size()].name + "\" is not one of them or came twice; leave it out",
            0,
            {{"model", config_.name}}};
  }
  request.rows = request.inputs.empty() ? 1 : request.inputs.front().shape.front();
  for (const auto& input : request.inputs) {
    const auto rows = input.shape.front();
    if (rows == request.rows && rows >= 1 && rows <= config_.buckets.back()) continue;
    return {Reason::kInvalidInput,
            "batch mismatch: " + model + " input \"" + input.name + "\" has batch " + std::to_string(rows) +
                ", wanted the same number in every input, 1 to " + std::to_string(config_.buckets.back()) +
                "; split the request",
            0,
            {{"model", config_.name}, {"input", input.name}}};
  }
  if (request.size_bytes > config_.queue.bytes_max) {
    // Not QUEUE_FULL: trying again would never help.
    return {Reason::kInvalidInput,
            "request of " + std::to_string(request.size_bytes) + " bytes is larger than the whole queue of " + model +
                ", " + std::to_string(config_.queue.bytes_max) + " bytes; send fewer rows or smaller ones",
            0,
            {{"model", config_.name}}};
  }
  return {};
}

void Model::submit(Request& request) {
  if (auto status = validate(request); !status.ok()) return refuse(request, std::move(status));
  if (request.deadline == TimePoint::max()) {
    request.deadline = request.arrival + microseconds(config_.default_timeout_us);
  }
  int slot = -1;
  Status refusal;
  {
    const std::lock_guard lock(mutex_);
    if (!admitting_) {
      refusal = {Reason::kDraining, config_.name + " is draining on this node; send to another node", 1000, {}};
    } else if (inline_ && queue_.empty() && !free_slots_.empty()) {
      slot = free_slots_.back();
      free_slots_.pop_back();
    } else if (!queue_.try_push(request)) {
      refusal = {Reason::kQueueFull,
                 "queue of " + config_.name + " is full: " + std::to_string(queue_.size()) + " requests and " +
                     std::to_string(queue_.size_bytes()) + " bytes wait, at most " +
                     std::to_string(config_.queue.requests_max) + " and " + std::to_string(config_.queue.bytes_max) +
                     "; retry after the given delay or on another node",
                 std::max<std::int64_t>(1000, drain_estimate_us()),
                 {{"model", config_.name}, {"queued", std::to_string(queue_.size())}}};
    } else if (!free_slots_.empty()) {
      ready_.notify_one();
    }
  }
  if (!refusal.ok()) return refuse(request, std::move(refusal));
  if (slot < 0) return;
  const auto now = Clock::now();
  if (request.deadline <= now) {
    release(slot);
    return dispose({{&request}, {}});
  }
  const auto slack = microseconds_between(now, request.deadline);
  run(slot, {&request}, pick_bucket(request.rows, request.rows, slack), now);
}

void Model::cancel(Request& request) {
  request.cancelled.store(true, std::memory_order_relaxed);
  bool removed = false;
  {
    const std::lock_guard lock(mutex_);
    removed = queue_.remove(request);
  }
  if (removed) dispose({{}, {&request}});
}

std::size_t Model::pick_bucket(std::int64_t first_rows, std::int64_t waiting_rows, std::int64_t slack_us) const {
  std::array<BucketCost, 16> costs;
  const auto n = std::min(bucket_stats_.size(), costs.size());
  for (std::size_t i = 0; i < n; ++i) {
    costs[i] = {bucket_stats_[i]->rows, bucket_stats_[i]->recent_us.load(std::memory_order_relaxed)};
  }
  return choose_bucket({costs.data(), n}, first_rows, waiting_rows, slack_us);
}

std::int64_t Model::drain_estimate_us() const {
  const auto& largest = *bucket_stats_.back();
  const auto batches = (queue_.rows() + largest.rows - 1) / largest.rows;
  return batches * largest.recent_us.load(std::memory_order_relaxed) / engine_->slots();
}

void Model::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    const auto can_run = [this] { return !queue_.empty() && !free_slots_.empty(); };
    while (!stopping_ && !can_run()) ready_.wait_for(lock, kWaitSlice);
    if (stopping_) return;
    if (config_.batch_delay_us > 0) {
      const Request& first = *queue_.first();
      const auto run_us = bucket_stats_.back()->recent_us.load(std::memory_order_relaxed);
      const auto until =
          std::min(first.arrival + microseconds(config_.batch_delay_us), first.deadline - microseconds(2 * run_us));
      ready_.wait_until(lock, until,
                        [this] { return stopping_ || queue_.compatible_rows() >= config_.buckets.back(); });
      if (stopping_) return;
      if (!can_run()) continue;
    }
    const auto now = Clock::now();
    const auto purged = queue_.purge(now);
    std::vector<Request*> requests;
    std::size_t bucket = 0;
    int slot = -1;
    if (const Request* first = queue_.first(); first != nullptr) {
      bucket = pick_bucket(first->rows, queue_.compatible_rows(), microseconds_between(now, first->deadline));
      requests = queue_.take(bucket_stats_[bucket]->rows);
      slot = free_slots_.back();
      free_slots_.pop_back();
    }
    if (queue_.empty()) {
      settled_.notify_all();
    } else if (!free_slots_.empty()) {
      ready_.notify_one();  // this worker may have slept through the call for another one
    }
    lock.unlock();
    dispose(purged);
    if (slot >= 0) run(slot, std::move(requests), bucket, now);
    lock.lock();
  }
}

void Model::gather(Slot& slot, std::int64_t bucket_rows) {
  slot.batch.bucket = bucket_rows;
  slot.batch.inputs.resize(config_.signature.inputs.size());
  for (std::size_t i = 0; i < config_.signature.inputs.size(); ++i) {
    const auto& first = slot.requests.front()->inputs[i];
    auto& target = slot.batch.inputs[i];
    target.shape = first.shape;
    target.shape.front() = bucket_rows;
    const auto row = row_bytes(first.data_type, first.shape);
    auto& buffer = slot.inputs[i];
    buffer.resize(row * static_cast<std::size_t>(bucket_rows));
    auto* out = buffer.data();
    for (const Request* request : slot.requests) {
      for (const auto piece : request->inputs[i].data) {
        std::memcpy(out, piece.data(), piece.size());
        out += piece.size();
      }
    }
    std::memset(out, 0, static_cast<std::size_t>(buffer.data() + buffer.size() - out));
    target.data = buffer.data();
  }
}

void Model::run(int index, std::vector<Request*> requests, std::size_t bucket, TimePoint now) {
  auto& slot = slots_[index];
  slot.requests = std::move(requests);
  slot.bucket = bucket;
  slot.started = now;
  slot.rows = 0;
  for (const Request* request : slot.requests) {
    slot.rows += request->rows;
    if (request->deadline <= now) counters_.expired_executed.fetch_add(1, std::memory_order_relaxed);
  }
  slot.batch.slot = index;
  gather(slot, bucket_stats_[bucket]->rows);
  counters_.executions.fetch_add(1, std::memory_order_relaxed);
  engine_->submit(slot.batch, [this, index](const std::string& error) { finish(index, error); });
}

void Model::finish(int index, const std::string& error) {
  auto& slot = slots_[index];
  std::vector<std::vector<OutputTensor>> outputs(slot.requests.size());
  std::string failure = error;
  if (failure.empty()) {
    try {
      scatter(slot, outputs);
    } catch (const std::exception& e) {
      failure = e.what();
    }
  }
  const auto run_us = microseconds_between(slot.started, Clock::now());
  if (failure.empty()) {
    auto& stats = *bucket_stats_[slot.bucket];
    stats.run.record(run_us);
    const auto recent = stats.recent_us.load(std::memory_order_relaxed);
    stats.recent_us.store(recent + (run_us - recent) / 8, std::memory_order_relaxed);
  }
  const auto requests = std::move(slot.requests);
  const auto started = slot.started;
  const auto rows = slot.rows;
  release(index);  // the next batch may start while these answers are written
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Request& request = *requests[i];
    Result result;
    result.timing = {microseconds_between(request.arrival, started), run_us, 0, static_cast<std::int32_t>(rows)};
    if (failure.empty()) {
      counters_.queue.record(result.timing.queue_us);
      counters_.compute.record(run_us);
      counters_.rows.fetch_add(static_cast<std::uint64_t>(request.rows), std::memory_order_relaxed);
      result.outputs = std::move(outputs[i]);
    } else {
      result.status = {Reason::kEngineFailed,
                       config_.name + ":" + std::to_string(config_.version) + " failed in " + engine_->kind() + ": " +
                           failure + "; the request may be sent again",
                       0,
                       {{"model", config_.name}}};
    }
    answer(request, std::move(result));
  }
}

// Copies the rows of the batch out of engine memory, once.
std::vector<std::shared_ptr<Buffer>> Model::collect(const Slot& slot) const {
  std::vector<std::shared_ptr<Buffer>> buffers;
  for (std::size_t o = 0; o < slot.batch.outputs.size(); ++o) {
    const auto& output = slot.batch.outputs[o];
    const auto& spec = config_.signature.outputs[o];
    if (output.shape.empty() || output.shape.front() != slot.batch.bucket) {
      throw std::runtime_error("output \"" + spec.name + "\" came back as " + to_string(output.shape) +
                               " for a batch of " + std::to_string(slot.batch.bucket));
    }
    const auto size = row_bytes(spec.data_type, output.shape) * static_cast<std::size_t>(slot.rows);
    buffers.push_back(std::make_shared<Buffer>(size));
    if (size != 0) std::memcpy(buffers.back()->data(), output.data, size);
  }
  return buffers;
}

std::vector<std::shared_ptr<Buffer>> Model::collect_detections(const Slot& slot) const {
  const auto& boxes = slot.batch.outputs[0];
  const auto& scores = slot.batch.outputs[1];
  if (boxes.shape.size() != 3 || scores.shape.size() != 3 || boxes.shape[1] != scores.shape[1] || boxes.shape[2] != 4) {
    throw std::runtime_error("detector returned boxes " + to_string(boxes.shape) + " and scores " +
                             to_string(scores.shape) + ", wanted [batch, anchors, 4] and [batch, anchors, classes]");
  }
  const auto anchors = scores.shape[1];
  const auto classes = scores.shape[2];
  const auto rows = static_cast<std::size_t>(slot.rows);
  std::vector<std::shared_ptr<Buffer>> buffers;
  for (const auto per_row : {kDetectionsMax * 4, kDetectionsMax, kDetectionsMax, std::int64_t{1}}) {
    buffers.push_back(std::make_shared<Buffer>(rows * static_cast<std::size_t>(per_row) * 4));
  }
  for (std::int64_t r = 0; r < slot.rows; ++r) {
    const DetectionRow row{reinterpret_cast<float*>(buffers[0]->data()) + r * kDetectionsMax * 4,
                           reinterpret_cast<float*>(buffers[1]->data()) + r * kDetectionsMax,
                           reinterpret_cast<std::int32_t*>(buffers[2]->data()) + r * kDetectionsMax,
                           reinterpret_cast<std::int32_t*>(buffers[3]->data()) + r};
    detect(reinterpret_cast<const float*>(boxes.data) + r * anchors * 4,
           reinterpret_cast<const float*>(scores.data) + r * anchors * classes, anchors, classes, config_.detections,
           row);
  }
  return buffers;
}

void Model::scatter(Slot& slot, std::vector<std::vector<OutputTensor>>& outputs) const {
  const bool detections = config_.postprocess == Postprocess::kDetections;
  const auto buffers = detections ? collect_detections(slot) : collect(slot);
  for (std::size_t o = 0; o < buffers.size(); ++o) {
    const auto& spec = config_.signature.outputs[o];
    Shape shape{1};
    if (detections) {
      shape.insert(shape.end(), spec.dims.begin(), spec.dims.end());
    } else {
      shape = slot.batch.outputs[o].shape;
    }
    const auto row = row_bytes(spec.data_type, shape);
    std::size_t offset = 0;
    for (std::size_t i = 0; i < slot.requests.size(); ++i) {
      shape.front() = slot.requests[i]->rows;
      const auto size = row * static_cast<std::size_t>(shape.front());
      outputs[i].push_back({&spec, shape, buffers[o], offset, size});
      offset += size;
    }
  }
}

void Model::release(int slot) {
  const std::lock_guard lock(mutex_);
  free_slots_.push_back(slot);
  if (!queue_.empty()) ready_.notify_one();
  if (!admitting_) settled_.notify_all();
}

void Model::answer(Request& request, Result&& result) {
  result.timing.total_us = microseconds_between(request.arrival, Clock::now());
  counters_.finished[static_cast<std::size_t>(result.status.reason)].fetch_add(1, std::memory_order_relaxed);
  if (result.status.ok()) counters_.total.record(result.timing.total_us);
  request.complete(std::move(result));
}

void Model::refuse(Request& request, Status status) {
  Result result;
  result.status = std::move(status);
  answer(request, std::move(result));
}

void Model::dispose(const Purged& purged) {
  for (Request* request : purged.expired) {
    const auto waited = microseconds_between(request->arrival, Clock::now());
    refuse(*request, {Reason::kDeadlinePassed,
                      "deadline passed after " + std::to_string(waited) + " us in the queue of " + config_.name +
                          "; it was not computed",
                      0,
                      {{"model", config_.name}, {"queue_us", std::to_string(waited)}}});
  }
  for (Request* request : purged.cancelled) {
    refuse(*request, {Reason::kCancelled, "cancelled by the caller", 0, {{"model", config_.name}}});
  }
}

std::size_t Model::drain(TimePoint until) {
  std::vector<Request*> left;
  {
    std::unique_lock lock(mutex_);
    if (stopping_) return 0;
    admitting_ = false;
    const auto settled = [this] { return queue_.empty() && free_slots_.size() == slots_.size(); };
    while (!settled() && Clock::now() < until) settled_.wait_until(lock, until);
    left = queue_.drain();
    stopping_ = true;
    ready_.notify_all();
  }
  for (Request* request : left) {
    refuse(*request,
           {Reason::kDraining, config_.name + " was unloaded before this request ran; send it again", 1000, {}});
  }
  for (auto& worker : workers_) worker.join();  // at most one batch each
  workers_.clear();
  engine_->close();
  return left.size();
}

std::size_t Model::queued() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

}  // namespace starling
