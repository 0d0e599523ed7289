#include "inference.h"

#include <algorithm>
#include <charconv>

namespace starling::predict {
namespace {

// Refusals that another model or an earlier answer can make up for.
bool may_degrade(Reason reason) noexcept {
  switch (reason) {
    case Reason::kDeadlineUnmeetable:
    case Reason::kQueueFull:
    case Reason::kSequencesFull:
    case Reason::kModelNotFound:
    case Reason::kModelNotReady:
    case Reason::kEngineFailed:
      return true;
    default:
      return false;
  }
}

// The version that a gateway chose for a model's requests; 0 when it chose none.
std::int64_t routed_version(std::string_view routed, std::string_view model_name) noexcept {
  if (!routed.starts_with(model_name)) return 0;
  routed.remove_prefix(model_name.size());
  std::int64_t version = 0;
  if (!routed.starts_with(':')) return 0;
  const auto [end, error] = std::from_chars(routed.data() + 1, routed.data() + routed.size(), version);
  return error == std::errc{} && end == routed.data() + routed.size() && version > 0 ? version : 0;
}

}  // namespace

std::shared_ptr<Model> Inference::model() const {
  const std::lock_guard lock(mutex_);
  return model_;
}

void Inference::abandon() {
  cancelled.store(true, std::memory_order_relaxed);
  if (const auto current = model()) current->cancel(*this);
}

void Inference::start(Status parsed, RequestView&& view, std::string payer, std::string_view routed) {
  view_ = std::move(view);
  if (!parsed.ok()) {
    node_.malformed.fetch_add(1, std::memory_order_relaxed);
    return turn_down(parsed);
  }
  if (node_.draining()) {
    return turn_down({Reason::kDraining,
                      "node " + node_.name() + " is draining; send to another node",
                      1000,
                      {{"node", node_.name()}}});
  }
  inputs = std::move(view_.inputs);
  if (auto status = open_regions(); !status.ok()) return turn_down(std::move(status));
  for (const auto& input : inputs) size_bytes += input.size_bytes;
  node_.bytes_in.passed.fetch_add(size_bytes, std::memory_order_relaxed);
  if (view_.copied > 0) node_.bytes_in.copied.fetch_add(view_.copied, std::memory_order_relaxed);
  priority = view_.priority;
  tenant = std::move(payer);
  stream_id = view_.stream_id;
  sequence = view_.sequence;
  sequence_id = view_.sequence_id;
  sequence_start = view_.sequence_start;
  sequence_end = view_.sequence_end;
  if (view_.budget_us) {
    // A budget beyond an hour is no bound, and must not overflow the clock.
    const auto budget = std::min<std::int64_t>(*view_.budget_us, std::int64_t{3600} * 1'000'000);
    deadline = std::min(deadline, arrival + std::chrono::microseconds(budget));
  }
  const bool is_free = view_.model_version == 0 && !routed.empty();
  attempt(view_.model_name, is_free ? routed_version(routed, view_.model_name) : view_.model_version);
}

void Inference::attempt(const std::string& model_name, std::int64_t version) {
  std::shared_ptr<Model> found;
  if (auto status = node_.find(view_, model_name, version, found); !status.ok()) {
    return next_alternative(std::move(status));
  }
  found->prefetch();
  {
    const std::lock_guard lock(mutex_);
    model_ = found;
  }
  if (!first_choice_ && degraded_to_.empty()) {
    first_choice_ = found;
    if (answer_from_responses()) return;
    if (view_.cache && answer_from_frames(*view_.cache, {})) return;
    if (auto status = open_sinks(); !status.ok()) return turn_down(std::move(status));
  }
  // This request may be gone before submit() returns; `found` keeps the model.
  found->submit(*this);
}

void Inference::complete(Result&& result) noexcept {
  if (!result.status.ok()) return next_alternative(std::move(result.status));
  const auto current = model();
  if (degraded_to_.empty()) {
    remember(result.outputs);
  } else {
    node_.degraded.fetch_add(1, std::memory_order_relaxed);
  }
  Answer answer{current->config(), result.outputs, result.timing};
  answer.degraded_to = degraded_to_;
  send(answer);
}

// Says where the time went, unless a model has said it.
void Inference::turn_down(Status status) {
  if (status.reason != Reason::kCancelled) {  // whose caller hears nothing
    add_fact(status, "queue_us", "0");
    add_fact(status, "total_us", std::to_string(microseconds_between(arrival, Clock::now())));
  }
  refuse(status);  // this may be gone
}

// One step down, or the refusal of the first choice when there is none left.
void Inference::next_alternative(Status why) {
  const bool worth_it = may_degrade(why.reason);
  if (first_refusal_.ok()) first_refusal_ = std::move(why);
  while (worth_it && next_ < view_.allow.size() && !cancelled.load(std::memory_order_relaxed)) {
    const auto& alternative = view_.allow[next_++];
    if (alternative.kind == Alternative::Kind::kModel) {
      degraded_to_ = alternative.model_name;
      return attempt(alternative.model_name, 0);
    }
    const bool last_value = alternative.kind == Alternative::Kind::kLastValue;
    if (answer_from_frames(alternative.cache, last_value ? "last_value" : "cached")) return;
  }
  turn_down(std::move(first_refusal_));
}

// The frame cache compares pictures: one UINT8 [1, height, width, 3] input and a stream to compare within.
bool Inference::is_frame_model(const Model& candidate) const {
  const auto& specs = candidate.config().signature.inputs;
  return !candidate.config().is_stateful() && !stream_id.empty() && specs.size() == 1 && inputs.size() == 1 &&
         inputs[0].source == nullptr && inputs[0].name == specs[0].name && specs[0].data_type == DataType::kUint8 &&
         inputs[0].data_type == DataType::kUint8 && inputs[0].shape.size() == 4 && inputs[0].shape[0] == 1 &&
         inputs[0].shape[3] == 3;
}

bool Inference::answer_from_frames(const CachePolicy& policy, std::string_view degraded_to) {
  if (!first_choice_ || !is_frame_model(*first_choice_)) return false;
  if (!luma_) luma_ = small_luma(inputs[0].data, inputs[0].shape[1], inputs[0].shape[2]);
  if (!luma_) return false;
  const auto now = Clock::now();
  const FrameTolerance tolerance{policy.similarity_min, std::chrono::microseconds(policy.staleness_max_us)};
  auto found = node_.frames().lookup({first_choice_->id(), stream_key()}, *luma_, now, tolerance);
  if (!found.hit()) return false;
  if (!degraded_to.empty()) node_.degraded.fetch_add(1, std::memory_order_relaxed);
  Answer answer{first_choice_->config(), found.outputs, {}};
  answer.similarity = found.similarity;
  answer.staleness_ms = found.staleness.count() / 1000;
  answer.degraded_to = degraded_to;
  send_cached(answer);  // this may be gone
  return true;
}

// The cache compares bytes, so those that lie elsewhere are fetched. True when nothing is left to be done.
bool Inference::answer_from_responses() {
  if (first_choice_->config().response_cache_us == 0 ||
      inputs.size() != first_choice_->config().signature.inputs.size()) {
    return false;
  }
  const auto began = Clock::now();
  for (auto& input : inputs) {
    if (input.source == nullptr) continue;
    auto bytes = std::make_shared<Buffer>(input.size_bytes);
    if (auto status = input.source->read({bytes->data(), bytes->size()}); !status.ok()) {
      turn_down(std::move(status));
      return true;
    }
    node_.bytes_in.copied.fetch_add(bytes->size(), std::memory_order_relaxed);
    input.source = nullptr;
    input.data = {{bytes->data(), bytes->size()}};
    fetched_.push_back(std::move(bytes));
  }
  response_key_ = node_.responses().key(first_choice_->id(), inputs);
  const auto now = Clock::now();
  auto found = node_.responses().lookup(*response_key_, now);
  if (!found || found->age > std::chrono::microseconds(first_choice_->config().response_cache_us)) {
    first_choice_->count_cache_miss(began);
    return false;
  }
  first_choice_->count_cache_hit(arrival, began);
  Answer answer{first_choice_->config(), found->outputs, {}};
  answer.similarity = 1;
  answer.staleness_ms = found->age.count() / 1000;
  send_cached(answer);
  return true;
}

// Only the first choice's own answers: an alternative must never be passed off as it.
void Inference::remember(const std::vector<OutputTensor>& outputs) {
  bool kept = false;
  if (response_key_) {
    const auto began = Clock::now();
    kept = node_.responses().put(*response_key_, outputs, arrival);
    first_choice_->count_cache_put(began);
  }
  const bool asked = view_.cache || std::any_of(view_.allow.begin(), view_.allow.end(), [](const Alternative& a) {
                       return a.kind != Alternative::Kind::kModel;
                     });
  if (asked && is_frame_model(*first_choice_)) {
    if (!luma_) luma_ = small_luma(inputs[0].data, inputs[0].shape[1], inputs[0].shape[2]);
    kept |= luma_ && node_.frames().put({first_choice_->id(), stream_key()}, std::move(*luma_), outputs, arrival);
  }
  if (kept) node_.forget_if_unloaded(*first_choice_);
}

void Inference::send_cached(Answer answer) {
  const auto now = Clock::now();
  answer.from_cache = true;
  answer.timing.total_us = microseconds_between(arrival, now);
  if (deadline != TimePoint::max()) answer.timing.slack_us = microseconds_between(now, deadline);
  send(answer);
}

void Inference::send(Answer answer) {
  answer.node = node_.name();
  std::uint64_t passed = 0;
  std::uint64_t copied = 0;
  for (const auto& output : answer.outputs) passed += output.size;
  for (const auto& wanted : view_.outputs) {
    if (!wanted.region) continue;
    for (const auto& output : answer.outputs) {
      if (output.spec->name != wanted.name || output.buffer == nullptr) continue;
      std::shared_ptr<const RegionBytes> bytes;
      auto status = node_.regions().find(*wanted.region, bytes);
      if (status.ok()) status = bytes->write(*output.spec, {output.buffer->data() + output.offset, output.size});
      if (!status.ok()) {
        add_fact(status, "queue_us", std::to_string(answer.timing.queue_us));
        add_fact(status, "compute_us", std::to_string(answer.timing.compute_us));
        return turn_down(std::move(status));
      }
      copied += output.size;
    }
  }
  node_.bytes_out.passed.fetch_add(passed, std::memory_order_relaxed);
  node_.bytes_out.copied.fetch_add(copied, std::memory_order_relaxed);
  deliver(answer);
}

// Finds the inputs that lie in shared memory, which are read when their batch is made.
Status Inference::open_regions() {
  for (const auto& [index, range] : view_.input_regions) {
    auto& input = inputs[index];
    // A range is as large as its tensor, and a tensor no larger than a message may be.
    const auto expected = byte_size(input.data_type, input.shape.data(), input.shape.size());
    const bool is_bytes = input.data_type == DataType::kBytes;
    const bool fits = expected && (is_bytes ? range.size >= *expected : range.size == *expected);
    if (!fits || range.size > node_.tensor_bytes_max()) {
      return {Reason::kInvalidInput,
              "input \"" + input.name + "\" of shape " + to_string(input.shape) + " needs " +
                  (is_bytes ? "at least " : "") + (expected ? std::to_string(*expected) : "more than 2^63") +
                  " bytes, got " + std::to_string(range.size) + " in shared memory, at most " +
                  std::to_string(node_.tensor_bytes_max()) + "; send row-major elements without padding",
              0,
              {{"input", input.name}}};
    }
    std::shared_ptr<const RegionBytes> bytes;
    if (auto status = node_.regions().find(range, bytes); !status.ok()) return status;
    if (auto status = bytes->check(range.size); !status.ok()) return status;
    input.size_bytes = range.size;
    input.source = std::move(bytes);
  }
  return {};
}

// Finds the places in shared memory for outputs, which are written out of the engine; not of a model whose answers are
// kept for others.
Status Inference::open_sinks() {
  if (response_key_) return {};
  const auto& specs = first_choice_->config().signature.outputs;
  for (const auto& wanted : view_.outputs) {
    if (!wanted.region) continue;
    std::shared_ptr<const RegionBytes> bytes;
    if (auto status = node_.regions().find(*wanted.region, bytes); !status.ok()) return status;
    const auto same = [&](const TensorSpec& spec) { return spec.name == wanted.name; };
    const auto at = std::find_if(specs.begin(), specs.end(), same) - specs.begin();
    sinks.resize(specs.size());
    sinks.at(static_cast<std::size_t>(at)) = std::move(bytes);
  }
  return {};
}

}  // namespace starling::predict
