// State that a model keeps between the requests of a sequence, and whose turn it is to go on with it.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "request.h"

namespace starling {

// A tensor that one step of a sequence leaves for the next: an output that becomes an input. Agents see neither.
struct StateSpec {
  TensorSpec input;  // every dimension fixed; zeros before the first step
  std::string output_name;
};

struct SequenceOptions {
  std::vector<StateSpec> states;     // empty: the model keeps nothing between requests
  std::int64_t idle_us = 1'000'000;  // a sequence without a request for this long is forgotten
  std::size_t sequences_max = 1024;  // kept at once
};

// Bytes of one row of each state.
using StateRows = std::vector<std::vector<std::uint8_t>>;

// One sequence. Whoever has the turn, and nobody else, may read and write the rows, without a lock.
class Sequence {
 public:
  StateRows state;  // what the last answered step left
  StateRows next;   // what the running step leaves, until it is known whether it is answered

 private:
  friend class Sequences;
  std::string key_;
  std::string tenant_;
  std::deque<Request*> line_;  // arrival order; the first has the turn
  bool open_ = true;           // new steps may find it
  bool over_ = false;          // it ended, or never began: those still in line have nothing to go on with
  TimePoint idle_since_;
  // In both lists while open with nobody in line.
  std::list<Sequence*>::iterator idle_;
  std::list<Sequence*>::iterator idle_of_tenant_;
};

// The sequences of one model. Not thread-safe: its model holds a lock around each call. Time is an argument.
//
// A state advances exactly when a step is answered. One that is refused, fails, is cancelled or comes too late leaves
// the state as it was, and the steps behind it go on from there; its caller was told, and may send it again, leave the
// gap, or start anew. A start that is not answered leaves no sequence: what follows it is refused.
//
// A start of a sequence that exists begins another one of that name; steps that arrived before it still go on with the
// old one. Tenants choose names without knowing of each other.
//
// Room is shared between tenants: when there is none, a start of a tenant that keeps fewer sequences than another one
// takes the place of the longest idle sequence of whoever keeps most.
class Sequences {
 public:
  explicit Sequences(const SequenceOptions& options);

  // Puts a step in line; says why not when there is no such sequence, or no room for one more.
  Status enter(Request& request, TimePoint now);

  // Forgets what a start would have replaced, when it is refused before it could enter.
  void refused(const Request& request);

  // Whether a step in line may run now. At most one of a sequence may.
  bool has_turn(const Request& request) const noexcept;

  // Steps of its sequence that go before it.
  std::size_t ahead_of(const Request& request) const noexcept;

  // Why a step that has its turn can not run: its sequence ended while it waited, or did not begin.
  Status check(const Request& request) const;

  // Takes the step that has the turn out, with `next` as the new state when it was answered. Returns whose turn it is
  // now, or null.
  Request* leave(Request& request, bool answered, TimePoint now);

  // Takes a step that waits for its turn out; false when it does not. Looks at the address only.
  bool remove(Request& request);

  // Takes out those that wait and whose deadline has passed.
  std::vector<Request*> purge(TimePoint now);

  // Takes out all that wait, for shutdown.
  std::vector<Request*> drain();

  // Forgets sequences that were idle for too long.
  void sweep(TimePoint now);

  // The earliest deadline of a step that waits for its turn; max() when there is none.
  TimePoint next_deadline() const noexcept;

  std::size_t open() const noexcept { return open_.size(); }
  std::size_t waiting() const noexcept { return waiting_.size(); }
  std::uint64_t waiting_bytes() const noexcept { return waiting_bytes_; }
  std::uint64_t started() const noexcept { return started_; }
  std::uint64_t expired() const noexcept { return expired_; }
  std::uint64_t displaced() const noexcept { return displaced_; }

 private:
  struct Tenant {
    std::size_t open = 0;
    std::list<Sequence*> idle;  // longest idle first
  };
  using Open = std::unordered_map<std::string, std::shared_ptr<Sequence>>;

  void close(Open::iterator it);
  void rest(Sequence& sequence, TimePoint now);
  void wake(Sequence& sequence);
  bool make_room_for(const std::string& tenant);
  void stop_waiting(Request& request, TimePoint deadline);
  Status missing(const Request& request) const;
  Status full(TimePoint now) const;

  const SequenceOptions& options_;
  Open open_;
  std::list<Sequence*> idle_;              // longest idle first
  std::map<std::string, Tenant> tenants_;  // with at least one open sequence
  std::unordered_map<const Request*, TimePoint> waiting_;
  std::set<std::pair<TimePoint, Request*>> deadlines_;  // of those that wait
  std::uint64_t waiting_bytes_ = 0;
  std::uint64_t started_ = 0;
  std::uint64_t expired_ = 0;
  std::uint64_t displaced_ = 0;
};

}  // namespace starling
