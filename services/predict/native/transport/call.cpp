#include "call.h"

#include "event_loop.h"

namespace starling::transport {

void Call::send(wire::Writer&& message) {
  const auto size = message.size();
  loop_->post({this, message.take(), size, true, false, {}});
}

void Call::finish(wire::Writer&& message, Ending&& ending) {
  const auto size = message.size();
  loop_->post({this, message.take(), size, true, true, std::move(ending)});
}

void Call::finish(Ending&& ending) { loop_->post({this, {}, 0, false, true, std::move(ending)}); }

}  // namespace starling::transport
