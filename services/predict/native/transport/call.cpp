#include "call.h"

#include "event_loop.h"

namespace starling::transport {

void Call::send(wire::Writer&& message) { loop_->post({this, message.take(), true, false, {}}); }

void Call::finish(wire::Writer&& message, Ending&& ending) {
  loop_->post({this, message.take(), true, true, std::move(ending)});
}

void Call::finish(Ending&& ending) { loop_->post({this, {}, false, true, std::move(ending)}); }

}  // namespace starling::transport
