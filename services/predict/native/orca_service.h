// xds.service.orca.v3.OpenRcaService: tells whoever asks how busy the node is, again and again, also when it is asked
// nothing else.
#pragma once

#include <mutex>
#include <set>
#include <string>

#include "orca.h"
#include "transport/call.h"

namespace starling::predict {

// Thread-safe. Outlives its calls.
class OrcaService {
 public:
  // What lies beyond is brought to it. The meter makes no more than ten reports a second.
  static constexpr std::chrono::milliseconds kIntervalMin{100};
  static constexpr std::chrono::hours kIntervalMax{24};
  // A stream a subchannel of each client; gateways and their threads, not agents.
  static constexpr std::size_t kStreamsMax = 1024;

  // node: its name, for refusals.
  OrcaService(OrcaMeter& meter, std::string node) : meter_(meter), node_(std::move(node)) {}

  void add_methods(transport::Methods& methods);

  // Ends every stream and refuses those that come later: the node drains.
  void close();

 private:
  class Stream;

  Status draining() const;
  Status full() const;

  OrcaMeter& meter_;
  const std::string node_;
  std::mutex mutex_;
  std::set<Stream*> streams_;  // guarded by mutex_; those that have not ended
  bool closed_ = false;        // guarded by mutex_
};

}  // namespace starling::predict
