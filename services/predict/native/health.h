// grpc.health.v1.Health: what load balancers and probes ask.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "transport/call.h"

namespace starling::predict {

// Thread-safe. Outlives its calls.
class Health {
 public:
  // services: names that are known; "" is the node as a whole.
  explicit Health(const std::vector<std::string>& services);

  void set_serving(bool serving);

  void add_methods(transport::Methods& methods);

 private:
  class Check;
  class Watch;
  enum class State : std::uint8_t { kServing = 1, kNotServing = 2, kUnknown = 3 };  // as on the wire

  State state_locked(const std::string& service) const;

  mutable std::mutex mutex_;
  std::map<std::string, State> states_;  // guarded by mutex_
  std::set<Watch*> watches_;             // guarded by mutex_
};

}  // namespace starling::predict
