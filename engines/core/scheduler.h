// Which request runs next, with whom, and which is refused at once. Pure: time is an argument, nothing waits here.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "admission_code.h"
#include "execution_time.h"
#include "promise_margin.h"
#include "request.h"
#include "tenant_queue.h"

namespace starling {

enum class Discipline : std::uint8_t {
  kDeadline,  // everything below
  kFifo,      // arrival order, no admission, expired work runs: what other servers do, kept to measure against
};

struct QueueBounds {
  std::size_t requests_max = 256;
  std::uint64_t bytes_max = std::uint64_t{256} << 20;
};

struct SchedulerOptions {
  QueueBounds bounds;
  Discipline discipline = Discipline::kDeadline;
  int slots = 1;
  std::int64_t batch_delay_us = 0;
  // Longest predicted time from arrival to answer that is admitted; 0: only deadlines bound it.
  std::int64_t bound_us = 0;
  // Engine time that each tenant gets in a round: that of one full batch, at most this.
  std::int64_t quantum_us_max = 20'000;
  // A class with work that got no run for this long goes before the more urgent ones, for one run: strict priority
  // starves none for longer than this plus the runs of others that waited as long.
  std::int64_t starvation_us = 500'000;
  // An idle model whose last run is this long ago admits one request whatever the estimates say: an estimate that
  // refuses everything would never be corrected.
  std::int64_t probe_after_us = 500'000;
};

// Why a request is not taken, in numbers: deciding is quick and under a lock, the text for people is made later.
struct Refusal {
  Reason reason = Reason::kNone;
  std::int64_t retry_delay_us = 0;
  std::int64_t predicted_us = 0;
  std::int64_t left_us = 0;
  std::size_t queued = 0;
  std::uint64_t queued_bytes = 0;
  bool ok() const noexcept { return reason == Reason::kNone; }
};

// What to tell the request.
Status explain(const Refusal& refusal, const Request& request, const QueueBounds& bounds);

// What the slots do now.
struct Running {
  int slots = 0;             // that are busy
  std::int64_t left_us = 0;  // sum of the times until each of them is predicted to be free
};

// What became of an offer.
struct Admission {
  Refusal refusal;                // ok: the scheduler holds the request
  Request* superseded = nullptr;  // an older frame of the same stream that left the queue for this one
  Request* displaced = nullptr;   // one that left a full queue for this one
  Refusal displacement;           // why it left
  std::int64_t predicted_us = 0;  // predicted completion, from now
};

// Requests that left the queue because computing them would be waste.
struct Purged {
  std::vector<Request*> expired;   // the deadline has passed
  std::vector<Request*> hopeless;  // it will have passed when a run that starts now is over
  std::vector<Request*> cancelled;
  bool empty() const noexcept { return expired.empty() && hopeless.empty() && cancelled.empty(); }
};

// What to do next: run a batch, or come back later.
struct Dispatch {
  std::vector<Request*> requests;     // empty: nothing to run now
  std::size_t bucket = 0;             // index of the bucket to run them in
  TimePoint wake = TimePoint::max();  // when a held-back batch must go, if nothing else happens
};

// The queue of one model. Not thread-safe: its model holds a lock around each call.
//
// Order: class (priority 3 first), inside a class the tenants that have engine time left in this round, among these
// the earliest deadline. A tenant pays for its rows in measured engine microseconds; when no waiting tenant has any
// left, all get a quantum more (deficit round robin).
//
// A full queue is shared like the engine: whoever takes less of it than others displaces the last request of the one
// that takes most, and a more urgent class that of a lesser one.
//
// Admission is a promise: a request is taken only if it is predicted to be answered in time and to make no request of
// its class and tenant late that was promised before. A more urgent class may still break the promise to a lesser one,
// and a tenant within its share that to one beyond it. What predictions are off by, separately for both kinds of
// requests, is kept free before the deadline of one that has to wait.
class Scheduler {
 public:
  static constexpr int kClasses = 4;

  // times: kept up to date by the model; must outlive the scheduler.
  Scheduler(const SchedulerOptions& options, const ExecutionTime& times);

  // Begins to fetch the tenants of its class, which offer() begins with.
  void prefetch(const Request& request) const noexcept {
    const auto* tenants = classes_[band_of(request)].tenants.data();
    __builtin_prefetch(tenants);
    __builtin_prefetch(tenants + 1);
  }

  // Takes the request or says why not. Does not touch a superseded request's memory afterwards.
  STARLING_ADMISSION_CODE Admission offer(Request& request, TimePoint now, const Running& running);

  // The check of `offer` without queueing, for a request that would run at once on an idle slot.
  Refusal check_alone(Request& request, TimePoint now, std::int64_t& predicted_us);

  // Moves out what is cancelled, what has a deadline that is not after `now`, and what can not be met any more.
  Purged purge(TimePoint now);

  // Moves out the next batch, or says when to ask again.
  Dispatch next(TimePoint now);

  // How much later than predicted an admitted request was answered; negative: earlier.
  void learn(const Request& request, std::int64_t late_us) noexcept;
  // It was not answered in time at all.
  void learn_miss(const Request& request) noexcept;

  // The most that is kept free before a deadline now.
  std::int64_t margin_us() const noexcept { return std::max(margins_[false].us(), margins_[true].us()); }

  // True when it was queued and is not any more.
  bool remove(Request& request);

  // Moves everything out, for shutdown.
  std::vector<Request*> drain();

  // The earliest deadline of a queued request; max() when there is none.
  STARLING_ADMISSION_CODE TimePoint next_deadline() noexcept;

  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }
  std::int64_t rows() const noexcept { return rows_; }
  std::uint64_t size_bytes() const noexcept { return size_bytes_; }

  // Bounds that an autopilot may move while requests wait.
  void set_batch_delay_us(std::int64_t us) noexcept { options_.batch_delay_us = us; }
  void set_largest_bucket(std::size_t index) noexcept { largest_bucket_ = index; }
  // What waits is put in order by the new bound: else what came under a wider one would be passed by all that comes.
  // O(n log n).
  void set_bound_us(std::int64_t us);
  // Slots that can be used at all, >= 1.
  void set_slots(int slots) noexcept { options_.slots = slots; }
  const SchedulerOptions& options() const noexcept { return options_; }

 private:
  struct Tenant {
    std::string name;
    TenantQueue queue;
    std::int64_t credit_us = 0;
    std::int64_t rows = 0;
  };
  using Tenants = std::vector<Tenant>;  // by name
  struct Class {
    Tenants tenants;  // with idle ones, at most kTenantsMax
    std::size_t size = 0;
    TimePoint passed_since;  // of a class with work: its last run, or when the work came
  };
  // Where a request belongs: its class and its tenant, or where that would be among the tenants of the class.
  struct Place {
    int band;
    Tenants::iterator tenant;
    bool is_known;
  };
  struct Ahead {
    std::int64_t rows;
    bool beyond_share;  // its tenant has used up its credit before its turn comes
  };
  bool fifo() const noexcept { return options_.discipline == Discipline::kFifo; }
  TimePoint due_of(const Request& request) const noexcept;
  int band_of(const Request& request) const noexcept;
  std::string_view payer_of(const Request& request) const noexcept;
  STARLING_ADMISSION_CODE Place place_of(const Request& request, int band);
  Place place_of(const Request& request) { return place_of(request, band_of(request)); }
  QueueKey key_of(const Request& request) const noexcept;
  STARLING_ADMISSION_CODE Request* queued_frame_of(const Request& request, const Place& place);
  std::int64_t quantum_us() const noexcept;

  STARLING_ADMISSION_CODE Ahead ahead_of(const Request& request, const Place& place, const Request* leaving) const;
  std::int64_t share_us(std::int64_t us) const noexcept;
  STARLING_ADMISSION_CODE bool breaks_a_promise(const Request& request, const Place& place, const Request* leaving,
                                                std::int64_t ahead_us, TimePoint now) const;
  Refusal refuse(const Request& request, Reason reason, std::int64_t predicted_us, TimePoint now) const;

  STARLING_ADMISSION_CODE bool is_full_for(const Request& request, const Request* leaving) const noexcept;
  Request* crowding_out(const Place& place) const;
  bool may_probe(TimePoint now, bool idle) const noexcept;
  Class& class_to_serve(TimePoint now);
  Request* first_of(Class& band) const;
  static void start_round(Tenants& tenants, std::int64_t quantum_us);
  template <class Visit>
  void each(const Visit& visit) const;
  std::vector<Request*> companions(Request& first) const;
  std::size_t choose_bucket(const std::vector<Request*>& joining, TimePoint now) const;

  [[gnu::cold]] void clear_place(Admission& admission, Request* leaving, Request* crowd, TimePoint now);
  [[gnu::cold]] void add_tenant(const Request& request, Place& place);
  STARLING_ADMISSION_CODE void push(Request& request, Place& place);
  Tenant& erase(Request& request);  // whose it was

  SchedulerOptions options_;
  const ExecutionTime& times_;
  std::uint64_t next_ticket_ = 0;
  TimePoint last_start_;                  // of a run, as far as this scheduler knows
  std::array<PromiseMargin, 2> margins_;  // of requests within the share of their tenant, of those beyond it
  std::size_t largest_bucket_;
  std::size_t size_ = 0;
  std::int64_t rows_ = 0;
  std::uint64_t size_bytes_ = 0;
  TimePoint next_deadline_ = TimePoint::max();
  bool next_deadline_left_ = false;  // the request that had it; the next one is still to be found
  std::array<std::int64_t, kClasses> class_rows_{};
  std::array<Class, kClasses> classes_;
};

// True when two requests may share a batch: the same shapes behind the batch dimension.
bool same_shapes(const Request& a, const Request& b) noexcept;

}  // namespace starling
