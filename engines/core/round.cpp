#include "round.h"

#include <algorithm>
#include <utility>

namespace starling {
namespace {

thread_local Round* of_this_thread = nullptr;

}  // namespace

Round::Round() { of_this_thread = this; }

Round::~Round() { of_this_thread = nullptr; }

Round* Round::current() noexcept { return of_this_thread; }

void Round::put_off(std::weak_ptr<Work> work) {
  const auto same = [&](const std::weak_ptr<Work>& other) {
    return !other.owner_before(work) && !work.owner_before(other);
  };
  if (std::none_of(works_.begin(), works_.end(), same)) works_.push_back(std::move(work));
}

bool Round::run() {
  const auto works = std::exchange(works_, {});
  for (const auto& work : works) {
    if (const auto found = work.lock()) found->run_waiting();
  }
  return !works.empty();
}

}  // namespace starling
