#include "model_registry.h"

#include <algorithm>

#include "identity_engine.h"
#include "openvino_engine.h"

namespace starling {
namespace {

// State of all sequences of a model.
constexpr std::uint64_t kStateBytesMax = std::uint64_t{1} << 30;

// A new backend is one file and one line here.
std::unique_ptr<Engine> make_engine(const ModelConfig& config) {
  auto graph = config.signature;
  if (config.postprocess == Postprocess::kDetections) {
    check_detections_signature(config.signature);
    graph = detector_graph_signature(config.signature);
  }
  graph = with_states(std::move(graph), config.sequences);
  if (config.backend == "identity") {
    return std::make_unique<IdentityEngine>(
        std::move(graph),
        IdentityEngine::Options{config.instances, config.identity_delay_us, config.identity_fail_every});
  }
  if (config.backend == "openvino") {
    return make_openvino_engine(std::move(graph),
                                {config.path, config.buckets, config.instances, config.threads, config.batched});
  }
  throw Error(Reason::kInvalidConfig,
              "backend \"" + config.backend + "\" is unknown; use \"openvino\" or \"identity\"");
}

// Every failure is one of ours: a runtime that throws something else fails this model, not the process.
std::shared_ptr<Model> make_model(const ModelConfig& config) {
  try {
    auto model = std::make_shared<Model>(config, make_engine(config));
    model->warm_up();
    return model;
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw Error(Reason::kEngineFailed, config.name + ":" + std::to_string(config.version) +
                                           " can not be made ready on backend \"" + config.backend + "\": " + e.what() +
                                           "; check its config.pbtxt and the free memory");
  }
}

void check_sequences(const ModelConfig& config) {
  if (!config.is_stateful()) return;
  if (config.sequences.idle_us < 1 || config.sequences.sequences_max < 1) {
    throw Error(Reason::kInvalidConfig, "sequences must be kept for at least 1 us, and at least 1 of them");
  }
  if (config.response_cache_us != 0) {
    throw Error(Reason::kInvalidConfig, config.name +
                                            " keeps state, so equal inputs have different answers; leave "
                                            "starling.response_cache_ms out");
  }
  if (config.postprocess != Postprocess::kNone) {
    throw Error(Reason::kInvalidConfig, config.name + " keeps state, which no postprocess goes with; remove one");
  }
  std::uint64_t bytes = 0;
  for (const auto& state : config.sequences.states) {
    if (state.input.data_type == DataType::kBytes) {
      throw Error(Reason::kInvalidConfig, config.name + " has state \"" + state.input.name +
                                              "\" of BYTES, whose size is not known; state is numbers");
    }
    const auto& dims = state.input.dims;
    const auto size = byte_size(state.input.data_type, dims.data(), dims.size());
    if (!size || *size == 0 || *size > kStateBytesMax) {
      throw Error(Reason::kInvalidConfig, config.name + " has state \"" + state.input.name + "\" of " +
                                              to_string(dims) + "; state dims must be fixed, each >= 1");
    }
    bytes += *size;
  }
  if (bytes > kStateBytesMax / config.sequences.sequences_max) {
    throw Error(Reason::kInvalidConfig, config.name + " may keep " + std::to_string(config.sequences.sequences_max) +
                                            " sequences of " + std::to_string(bytes) + " bytes, more than " +
                                            std::to_string(kStateBytesMax) + " in all; lower max_candidate_sequences");
  }
}

void check(const ModelConfig& config) {
  const bool ascending = !config.buckets.empty() && config.buckets.front() >= 1 && config.buckets.size() <= 16 &&
                         std::is_sorted(config.buckets.begin(), config.buckets.end(), std::less_equal<>{});
  if (!ascending) throw Error(Reason::kInvalidConfig, "batch buckets must be 1 to 16 ascending sizes, each >= 1");
  if (config.instances < 1 || config.threads < 1) {
    throw Error(Reason::kInvalidConfig, "instances and threads must be >= 1");
  }
  if (config.signature.inputs.empty() || config.signature.outputs.empty()) {
    throw Error(Reason::kInvalidConfig, "a model needs at least one input and one output");
  }
  check_sequences(config);
}

}  // namespace

ModelRegistry::~ModelRegistry() { drain(Clock::now()); }

void ModelRegistry::load(const ModelConfig& config) {
  check(config);
  auto model = make_model(config);
  std::shared_ptr<Model> replaced;
  {
    const std::unique_lock lock(mutex_);
    if (closed_) throw Error(Reason::kDraining, "this node is draining; load " + config.name + " on another node");
    auto& place = models_[config.name][config.version];
    replaced = std::exchange(place, std::move(model));
  }
  if (replaced) drain(*replaced, Clock::now() + std::chrono::microseconds(config.default_timeout_us));
}

bool ModelRegistry::unload(const std::string& name, std::int64_t version, TimePoint until) {
  std::shared_ptr<Model> model;
  {
    const std::unique_lock lock(mutex_);
    const auto it = models_.find(name);
    if (it == models_.end()) return false;
    const auto found = it->second.find(version);
    if (found == it->second.end()) return false;
    model = std::move(found->second);
    it->second.erase(found);
    if (it->second.empty()) models_.erase(it);
  }
  drain(*model, until);
  return true;
}

void ModelRegistry::drain(Model& model, TimePoint until) {
  model.drain(until);
  std::vector<std::shared_ptr<ModelWatcher>> watchers;
  {
    const std::shared_lock lock(mutex_);
    for (const auto& watcher : watchers_) watchers.push_back(watcher.lock());
  }
  for (const auto& watcher : watchers) {
    if (watcher) watcher->forget(model.id());
  }
}

void ModelRegistry::watch(const std::weak_ptr<ModelWatcher>& watcher) {
  const std::unique_lock lock(mutex_);
  std::erase_if(watchers_, [](const auto& known) { return known.expired(); });
  watchers_.push_back(watcher);
}

bool ModelRegistry::holds(const Model& model) const {
  return find(model.config().name, model.config().version).get() == &model;
}

std::shared_ptr<Model> ModelRegistry::find(const std::string& name, std::int64_t version) const {
  const std::shared_lock lock(mutex_);
  const auto it = models_.find(name);
  if (it == models_.end()) return nullptr;
  if (version == 0) return it->second.rbegin()->second;
  const auto found = it->second.find(version);
  return found == it->second.end() ? nullptr : found->second;
}

void ModelRegistry::set_available(std::vector<std::string> names) {
  const std::unique_lock lock(mutex_);
  available_ = std::move(names);
}

bool ModelRegistry::is_available(const std::string& name) const {
  const std::shared_lock lock(mutex_);
  return std::find(available_.begin(), available_.end(), name) != available_.end();
}

std::vector<std::shared_ptr<Model>> ModelRegistry::models() const {
  const std::shared_lock lock(mutex_);
  std::vector<std::shared_ptr<Model>> all;
  for (const auto& [name, versions] : models_) {
    for (const auto& [version, model] : versions) all.push_back(model);
  }
  return all;
}

std::size_t ModelRegistry::drain(TimePoint until) {
  std::vector<std::shared_ptr<Model>> all;
  {
    const std::unique_lock lock(mutex_);
    closed_ = true;
    for (const auto& [name, versions] : models_) {
      for (const auto& [version, model] : versions) all.push_back(model);
    }
    models_.clear();
  }
  std::size_t left = 0;
  for (const auto& model : all) left += model->drain(until);
  return left;
}

}  // namespace starling
