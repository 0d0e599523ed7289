#include "round.h"

#include <algorithm>

namespace starling {
namespace {

thread_local Round* of_this_thread = nullptr;

}  // namespace

Round::Round() { of_this_thread = this; }

Round::~Round() { of_this_thread = nullptr; }

Round* Round::current() noexcept { return of_this_thread; }

void Round::put_off(std::weak_ptr<Work> work, const Work* key) {
  const auto same = [key](const Entry& entry) { return entry.key == key && !entry.work.expired(); };
  if (std::none_of(entries_.begin(), entries_.end(), same)) entries_.push_back({key, std::move(work)});
}

bool Round::run() {
  running_.swap(entries_);
  for (const auto& entry : running_) {
    if (const auto work = entry.work.lock()) work->run_waiting();
  }
  const bool ran = !running_.empty();
  running_.clear();
  return ran;
}

}  // namespace starling
