#include "node.h"

#include <algorithm>

#include "classification.h"
#include "stream_call.h"

namespace starling::predict {
namespace {

// Callers that have not heard yet are refused with a reason: a server that shuts down would just cancel them.
// So it stays until nobody has called for a while, which is longer than the way of a refusal to a far caller.
constexpr std::chrono::milliseconds kQuiet{200};
constexpr std::chrono::seconds kLingerMax{1};

}  // namespace

void AnswerCaches::forget(std::uint64_t model_id) {
  frames.remove_model(model_id);
  responses.remove_model(model_id);
}

Status Node::not_loaded(const std::string& name, std::int64_t version) const {
  model_not_found.fetch_add(1, std::memory_order_relaxed);
  const auto asked = name + (version > 0 ? ":" + std::to_string(version) : "");
  std::string loaded;
  for (const auto& m : models_->models()) {
    if (loaded.size() > 200) break;
    loaded += (loaded.empty() ? "" : ", ") + m->config().name + ":" + std::to_string(m->config().version);
  }
  const bool available = models_->is_available(name);
  return {available ? Reason::kModelNotReady : Reason::kModelNotFound,
          "model " + asked + (available ? " is in the repository of node " : " is unknown to node ") + name_ +
              (available ? " but not loaded" : "") + "; loaded: " + (loaded.empty() ? "none" : loaded) + "; " +
              (available ? "load it with ModelService.LoadModel" : "ask for one of these or publish it"),
          0,
          {{"model", name}, {"node", name_}}};
}

Status Node::find(const RequestView& view, const std::string& name, std::int64_t version,
                  std::shared_ptr<Model>& model) const {
  model = models_->find(name, version);
  if (!model) return not_loaded(name, version);
  const auto& outputs = model->config().signature.outputs;
  for (const auto& wanted : view.outputs) {
    const auto known =
        std::find_if(outputs.begin(), outputs.end(), [&](const auto& o) { return o.name == wanted.name; });
    if (known != outputs.end()) {
      if (wanted.classes == 0 || is_classifiable(known->data_type)) continue;
      return {Reason::kInvalidInput,
              "output \"" + wanted.name + "\" of " + name + " is " + std::string(starling::name(known->data_type)) +
                  ", whose elements have no order to classify by; ask for the tensor",
              0,
              {{"model", name}, {"output", wanted.name}}};
    }
    std::string names;
    for (const auto& o : outputs) names += (names.empty() ? "" : ", ") + o.name;
    return {Reason::kInvalidInput,
            "output \"" + wanted.name + "\" is unknown, " + name + " returns " + names + "; ask for these",
            0,
            {{"model", name}, {"output", wanted.name}}};
  }
  return {};
}

void Node::call_finished() noexcept {
  if (calls_.fetch_sub(1, std::memory_order_acq_rel) == 1 && draining()) {
    const std::lock_guard lock(mutex_);
    idle_.notify_all();
  }
}

void Node::add_stream(StreamCall* stream) {
  const std::lock_guard lock(mutex_);
  streams_.insert(stream);
}

void Node::remove_stream(StreamCall* stream) {
  const std::lock_guard lock(mutex_);
  streams_.erase(stream);
}

std::int64_t Node::drain(TimePoint until) {
  std::unique_lock lock(mutex_);
  draining_.store(true);
  for (auto* stream : streams_) stream->drain();
  while (calls() > 0 && Clock::now() < until) idle_.wait_until(lock, until);
  const auto left = calls();
  const auto end = std::min(until, Clock::now() + kLingerMax);
  for (auto seen = ~std::uint64_t{0}; left == 0 && seen != late_calls_.load() && Clock::now() < end;) {
    seen = late_calls_.load();
    idle_.wait_until(lock, std::min(end, Clock::now() + kQuiet), [] { return false; });
  }
  return left;
}

}  // namespace starling::predict
