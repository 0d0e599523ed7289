// The model versions of one process: load, look up, unload.
#pragma once

#include <map>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

#include "model.h"

namespace starling {

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

  // Drains everything; nothing can be loaded afterwards. Returns admitted requests that got no answer.
  std::size_t drain(TimePoint until);

 private:
  mutable std::shared_mutex mutex_;
  std::map<std::string, std::map<std::int64_t, std::shared_ptr<Model>>> models_;  // guarded by mutex_
  std::vector<std::string> available_;                                            // guarded by mutex_
  bool closed_ = false;                                                           // guarded by mutex_
};

}  // namespace starling
