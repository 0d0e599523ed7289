// The model versions of one process: load, look up, unload.
#pragma once

#include <map>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

#include "model.h"

namespace starling {

// Whoever remembers something of models by their ids.
class ModelWatcher {
 public:
  virtual ~ModelWatcher() = default;
  // The model was unloaded or replaced. Answers that its callers still write may come after this.
  virtual void forget(std::uint64_t model_id) = 0;
};

// Thread-safe. Loading compiles and warms up outside the lock: lookups never wait for it.
class ModelRegistry {
 public:
  ~ModelRegistry();

  // Builds the engine, warms it up and publishes the version. Replaces a version that is loaded already,
  // which is drained. Throws Error.
  void load(const ModelConfig& config);

  // Takes the version out of the lookup and drains it until `until`. False when it was not loaded.
  bool unload(const std::string& name, std::int64_t version, TimePoint until);

  // The version, or the highest one for 0; null when it is not loaded.
  std::shared_ptr<Model> find(const std::string& name, std::int64_t version) const;

  // Names that this process could load; tells "not loaded" from "unknown" in refusals.
  void set_available(std::vector<std::string> names);
  bool is_available(const std::string& name) const;

  // By name, then version.
  std::vector<std::shared_ptr<Model>> models() const;

  // True while the lookup leads to this very model.
  bool holds(const Model& model) const;

  // Tells it, while it exists, of every model that is unloaded or replaced from now on.
  void watch(const std::weak_ptr<ModelWatcher>& watcher);

  // Drains everything; nothing can be loaded afterwards. Returns admitted requests that got no answer.
  std::size_t drain(TimePoint until);

 private:
  void drain(Model& model, TimePoint until);

  mutable std::shared_mutex mutex_;
  std::map<std::string, std::map<std::int64_t, std::shared_ptr<Model>>> models_;  // guarded by mutex_
  std::vector<std::string> available_;                                            // guarded by mutex_
  std::vector<std::weak_ptr<ModelWatcher>> watchers_;                             // guarded by mutex_
  bool closed_ = false;                                                           // guarded by mutex_
};

}  // namespace starling
