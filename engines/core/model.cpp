#include "model.h"

#include <algorithm>

#include "signature_check.h"

namespace starling {
namespace {

using std::chrono::microseconds;

// Below this engine time a hand-over to a worker thread costs more than the run itself.
constexpr std::int64_t kQuickUs = 50;
// A batch must save a row at least this much to be worth handing its requests to another thread.
constexpr std::int64_t kGatherGainUs = 4;
// Of quick runs on the thread of a caller, who has more to do.
constexpr int kTurnsMax = 32;
constexpr int kWarmUpRuns = static_cast<int>(ExecutionTime::kWindow);
constexpr std::int64_t kWarmUpBudgetUs = 200'000;
// Stands for a free dimension while warming up; detectors resize, so their time hardly depends on it.
constexpr std::int64_t kFreeDimension = 256;
// A batch of more input than this is a mistake in the configuration, not a model.
constexpr std::uint64_t kBatchBytesMax = std::uint64_t{1} << 30;
constexpr std::chrono::seconds kWaitSlice{1};
// An engine that failed this often in a row is broken, not unlucky.
constexpr int kFailuresMax = 5;
constexpr std::chrono::seconds kTryAgainAfter{1};

SchedulerOptions scheduler_options(const ModelConfig& config) {
  SchedulerOptions options;
  options.bounds = config.queue;
  options.discipline = config.discipline;
  options.slots = config.instances;
  options.batch_delay_us = config.batch_delay_us;
  return options;
}

std::uint64_t next_id() noexcept {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

AutopilotPolicy policy_of(const ModelConfig& config, int slots) {
  return {config.slo_p99_us,
          config.slo_miss_rate,
          config.buckets,
          {config.batch_delay_us, static_cast<std::int64_t>(config.buckets.size()) - 1, slots, 0}};
}

std::int64_t nanoseconds_between(TimePoint from, TimePoint to) noexcept {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(to - from).count();
}

// Whoever is refused may go to another model at once and displace a third there. Answered one after the other, such a
// chain needs no more stack than its first link.
void complete_in_turn(Request& request, Result&& result) {
  thread_local bool completing = false;
  thread_local std::deque<std::pair<Request*, Result>> later;
  if (completing) {
    later.emplace_back(&request, std::move(result));
    return;
  }
  completing = true;
  request.complete(std::move(result));
  while (!later.empty()) {
    auto [next, of_next] = std::move(later.front());
    later.pop_front();
    next->complete(std::move(of_next));
  }
  completing = false;
}

// Last line first: callers stand behind what they call.
template <int kLocality = 3>
void prefetch_lines(const void* from, const void* to) noexcept {
  constexpr std::ptrdiff_t kLine = 64;
  const auto first = reinterpret_cast<std::intptr_t>(from) / kLine;
  for (auto line = (reinterpret_cast<std::intptr_t>(to) - 1) / kLine; line >= first; --line) {
    __builtin_prefetch(reinterpret_cast<const void*>(line * kLine), 0, kLocality);
  }
}

// What a step throws, as text; empty when it throws nothing.
template <class Step>
std::string thrown_by(const Step& step) {
  try {
    step();
    return {};
  } catch (const std::exception& e) {
    const std::string what = e.what();
    return what.empty() ? "it threw an exception without a text" : what;
  } catch (...) {
    return "it threw what is no exception";
  }
}

// The model that this thread runs a batch of, to look at its queue again right after.
thread_local const Model* running_here = nullptr;

Status cancelled_status() { return {Reason::kCancelled, "cancelled by the caller", 0, {}}; }

Status late_status(const Request& request) {
  return {Reason::kDeadlinePassed,
          "deadline passed while the step ran; sequence \"" + request.sequence_id + "\" is as it was before it",
          0,
          {{"sequence_id", request.sequence_id}}};
}

}  // namespace

Model::Model(ModelConfig config, std::unique_ptr<Engine> engine)
    : id_(next_id()),
      config_(std::move(config)),
      engine_(std::move(engine)),
      setting_(policy_of(config_, engine_->slots()).most),
      slots_(static_cast<std::size_t>(engine_->slots())),
      times_(config_.buckets),
      scheduler_(scheduler_options(config_), times_),
      contents_(slots_.size()) {
  // Arrival order admits everything: there is nothing to steer.
  if (config_.slo_p99_us > 0 && config_.autopilot != AutopilotMode::kOff &&
      config_.discipline == Discipline::kDeadline) {
    pilot_ = std::make_unique<Pilot>(policy_of(config_, engine_->slots()), config_.autopilot, Clock::now());
  }
  for (const auto rows : config_.buckets) {
    bucket_stats_.push_back(std::make_unique<BucketStats>());
    bucket_stats_.back()->rows = rows;
  }
  for (int i = 0; i < engine_->slots(); ++i) free_slots_.push_back(i);
  if (config_.is_stateful()) sequences_ = std::make_unique<Sequences>(config_.sequences);
  // One more than there are slots, so that somebody is free to answer what expires and to notice what hangs.
  sleeping_.assign(slots_.size() + 1, TimePoint::max());
  first_wake_ = TimePoint::max();
  for (std::size_t i = 0; i < sleeping_.size(); ++i) workers_.emplace_back([this, i] { work(i); });
}

Model::~Model() { drain(Clock::now()); }

void Model::warm_up() {
  for (std::size_t b = 0; b < bucket_stats_.size(); ++b) {
    auto& stats = *bucket_stats_[b];
    std::vector<std::vector<std::uint8_t>> zeros;
    Batch batch;
    batch.bucket = stats.rows;
    for (const auto& spec : engine_->signature().inputs) {
      Shape shape;
      if (config_.batched) shape.push_back(stats.rows);
      for (const auto d : spec.dims) shape.push_back(d < 0 ? kFreeDimension : d);
      const auto size = byte_size(spec.data_type, shape.data(), shape.size());
      if (!size || *size > kBatchBytesMax) {
        throw Error(Reason::kInvalidConfig, label(config_) + " input \"" + spec.name + "\" is " +
                                                to_string(spec, config_.batched) + ", in a batch of " +
                                                std::to_string(stats.rows) + " more than " +
                                                std::to_string(kBatchBytesMax) + " bytes; correct config.pbtxt");
      }
      zeros.emplace_back(*size);
      batch.inputs.push_back({zeros.back().data(), shape, zeros.back().size()});
    }
    const auto begin = Clock::now();
    for (int run = 0; run <= kWarmUpRuns; ++run) {
      std::string error;
      const auto start = Clock::now();
      engine_->submit(batch, [&error](const std::string& e) { error = e; });
      const auto took = microseconds_between(start, Clock::now());
      if (!error.empty() && config_.identity_fail_every == 0) {
        throw Error(Reason::kEngineFailed,
                    label(config_) + " fails on an all-zero batch of " + std::to_string(stats.rows) + ": " + error);
      }
      if (run == 0) continue;  // the first run allocates
      stats.run.record(took);
      const std::lock_guard lock(mutex_);
      times_.observe(b, took);
      if (microseconds_between(begin, Clock::now()) > kWarmUpBudgetUs) break;
    }
  }
  const std::lock_guard lock(mutex_);
  quick_ = config_.batch_delay_us == 0 && config_.discipline == Discipline::kDeadline &&
           times_.run_time(0).median_us < kQuickUs;
  gathers_ = quick_ && times_.gain_us() >= kGatherGainUs;
}

// With mutex_ held. An autopilot may leave slots unused; what runs in them when it decides so runs to its end.
bool Model::has_slot() const noexcept { return !free_slots_.empty() && in_use_ < setting_.slots; }

PilotCounters Model::count_for_pilot() const noexcept {
  const auto finished = [this](Reason reason) {
    return stats_.finished[static_cast<std::size_t>(reason)].load(std::memory_order_relaxed);
  };
  PilotCounters counters;
  counters.answered = finished(Reason::kNone);
  counters.refused =
      finished(Reason::kDeadlineUnmeetable) + finished(Reason::kQueueFull) + finished(Reason::kDeadlinePassed);
  counters.rows = stats_.rows.load(std::memory_order_relaxed);
  counters.runs = stats_.executions.load(std::memory_order_relaxed);
  for (const auto& of_class : stats_.classes) counters.met += of_class.met.load(std::memory_order_relaxed);
  for (const auto& bucket : bucket_stats_) counters.busy_us += bucket->served_us.load(std::memory_order_relaxed);
  return counters;
}

// With mutex_ held, but not while it decides: a few times a second, asks the autopilot and does what it says. True when
// the lock was let go, so that everything has to be looked at again.
bool Model::steer(std::unique_lock<std::mutex>& lock, TimePoint now) {
  if (!pilot_ || !pilot_->is_due(now)) return false;
  PilotView view{setting_, static_cast<std::int64_t>(scheduler_.size() + turns_.size()), 0, {}};
  if (sequences_) view.queued += static_cast<std::int64_t>(sequences_->waiting());
  view.wait_us = times_.backlog_us(scheduler_.rows()) / setting_.slots;
  for (std::size_t b = 0; b < times_.size(); ++b) view.run_times.push_back(times_.run_time(b));
  lock.unlock();
  const auto setting = pilot_->step(now, count_for_pilot(), std::move(view));
  lock.lock();
  if (setting == setting_) return true;
  setting_ = setting;
  scheduler_.set_batch_delay_us(setting.batch_delay_us);
  scheduler_.set_largest_bucket(static_cast<std::size_t>(setting.largest_bucket));
  scheduler_.set_bound_us(setting.bound_us);  // offer() sets the slots, which depend on what hangs
  return true;
}

int Model::take_slot(std::size_t bucket, TimePoint now) {
  const int index = free_slots_.back();
  free_slots_.pop_back();
  auto& slot = slots_[index];
  slot.busy = true;
  ++in_use_;
  slot.bucket = static_cast<std::uint32_t>(bucket);
  slot.started = now;
  return index;
}

// With mutex_ held. A run that takes longer than usual is expected to end soon; one that hangs is no run.
Running Model::running(TimePoint now) const {
  Running running{in_use_, 0};
  for (const auto& slot : slots_) {
    if (!slot.busy || slot.abandoned) continue;
    const auto run = times_.run_time(slot.bucket);
    const auto elapsed = microseconds_between(slot.started, now);
    running.left_us +=
        elapsed < run.median_us ? run.median_us - elapsed : std::max(run.high_us - elapsed, run.median_us / 4);
  }
  return running;
}

// With mutex_ held: why no request is taken now, if so.
Status Model::closed_status(TimePoint now) {
  if (!admitting_) {
    return {Reason::kDraining, config_.name + " is draining on this node; send to another node", 1000, {}};
  }
  if (now - last_try_ < kTryAgainAfter) {
    return {Reason::kModelNotReady,
            label(config_) + " failed " + std::to_string(failures_in_a_row_) +
                " times in a row and is tried again every second; send to another node",
            1'000'000,
            {{"model", config_.name}}};
  }
  last_try_ = now;
  return {};
}

// With mutex_ held: refuses, queues, or takes a slot for the request to run at once. `closed`: why no request is taken.
Admission Model::admit(Request& request, TimePoint now, int& slot, Status& closed) {
  Admission admission;
  if (!admitting_ || failures_in_a_row_ >= kFailuresMax) [[unlikely]] {
    closed = closed_status(now);
    if (!closed.ok()) return admission;
  }
  if (quick_ && !(gathers_ && Round::current() != nullptr) && scheduler_.empty() && has_slot()) {
    admission.refusal = scheduler_.check_alone(request, now, request.predicted_us);
    if (admission.refusal.ok()) slot = take_slot(times_.bucket_for(request.rows), now);
    return admission;
  }
  return offer(request, now);
}

// With mutex_ held: the request is the scheduler's, or is refused.
Admission Model::offer(Request& request, TimePoint now) {
  // One that hangs is no slot until the engine gives it back.
  const auto usable = std::min<std::int64_t>(setting_.slots, std::ssize(slots_) - hung_);
  scheduler_.set_slots(static_cast<int>(std::max<std::int64_t>(1, usable)));
  auto admission = scheduler_.offer(request, now, running(now));
  request.predicted_us = admission.predicted_us + microseconds_between(request.arrival, now);
  return admission;
}

Status Model::explain_to(const Request& request, const Refusal& refusal) const {
  auto status = explain(refusal, request, config_.queue);
  status.message = label(config_) + ": " + status.message;
  return status;
}

// With mutex_ held, of a step of a sequence: true when the request goes on to admission; otherwise it waits for its
// turn, or the refusal says why it does not.
bool Model::has_turn(Request& request, TimePoint now, Status& refusal) {
  refusal = sequences_->enter(request, now);
  if (!refusal.ok()) return false;
  if (sequences_->has_turn(request)) return true;
  // It can not run before those ahead of it have, one after the other.
  const auto ahead = static_cast<std::int64_t>(sequences_->ahead_of(request));
  const auto needed_us = (ahead + 1) * times_.run_time(0).high_us;
  const auto left_us = microseconds_between(now, request.deadline);
  const bool full = scheduler_.size() + sequences_->waiting() > config_.queue.requests_max ||
                    scheduler_.size_bytes() + sequences_->waiting_bytes() > config_.queue.bytes_max;
  if (full) {
    refusal = {Reason::kQueueFull,
               label(config_) + ": the queue is full, " + std::to_string(ahead) +
                   " steps of this sequence wait in it; wait for their answers",
               std::max<std::int64_t>(1000, needed_us),
               {}};
  } else if (needed_us > left_us) {
    refusal = {Reason::kDeadlineUnmeetable,
               label(config_) + ": " + std::to_string(ahead) + " steps of sequence \"" + request.sequence_id +
                   "\" go before this one, an answer is predicted in " + std::to_string(needed_us) + " us, " +
                   std::to_string(left_us) + " us are left; wait for their answers or allow more time",
               std::max<std::int64_t>(1000, needed_us - std::max<std::int64_t>(0, left_us)),
               {{"predicted_us", std::to_string(needed_us)}, {"left_us", std::to_string(left_us)}}};
  }
  if (!refusal.ok()) {
    sequences_->remove(request);
  } else if (request.deadline <= sequences_->next_deadline()) {
    ready_.notify_one();  // to wake up for it
  }
  return false;
}

// With mutex_ held: offers the steps whose turn has come to the scheduler.
void Model::take_turns(TimePoint now, std::vector<Refused>& refused) {
  for (; !turns_.empty(); turns_.pop_front()) {
    Request& request = *turns_.front();
    auto status = sequences_->check(request);
    if (status.ok() && request.cancelled.load(std::memory_order_relaxed)) status = cancelled_status();
    if (status.ok() && request.deadline <= now) status = expired_status(request, now);
    if (!status.ok()) {
      refused.emplace_back(&request, std::move(status));
      continue;
    }
    auto admission = offer(request, now);
    if (auto* displaced = admission.displaced) {
      refused.emplace_back(displaced, explain_to(*displaced, admission.displacement));
    }
    if (!admission.refusal.ok()) refused.emplace_back(&request, explain_to(request, admission.refusal));
  }
}

// Addresses only, which stay as they are: nothing is read that the mutex guards.
void Model::prefetch() const noexcept {
  if (quick_) return;  // it leaves the caches alone
  prefetch_lines(&mutex_, this + 1);
  prefetch_lines(slots_.data(), slots_.data() + slots_.size());
  const auto estimates = times_.estimates();
  prefetch_lines(estimates.data(), estimates.data() + estimates.size());
  prefetch_lines<2>(__start_admission, __stop_admission);  // code is of no use in the first cache for data
}

void Model::submit(Request& request) {
  if (request.priority == 0) request.priority = config_.default_priority;
  request.timing = {};  // another model may have refused it before
  request.predicted_us = 0;
  auto status = check_request(config_, request);
  if (status.ok() && sequences_) status = check_step(config_, request);
  if (request.deadline == TimePoint::max()) {
    request.deadline = request.arrival + microseconds(config_.default_timeout_us);
  }
  int slot = -1;
  Admission admission;
  const auto now = Clock::now();
  if (status.ok() && request.deadline <= now && config_.discipline == Discipline::kDeadline) [[unlikely]] {
    status = expired_status(request, now);
  }
  if (!status.ok()) [[unlikely]] {
    if (sequences_) {
      const std::lock_guard lock(mutex_);
      sequences_->refused(request);
    }
    return refuse(request, std::move(status));
  }
  bool wakes = false;
  {
    const std::lock_guard lock(mutex_);
    scheduler_.prefetch(request);
    if (sequences_ == nullptr || !admitting_ || has_turn(request, now, status)) [[likely]] {
      admission = admit(request, now, slot, status);
      wakes = slot < 0 && !(gathers_ && put_off()) && calls_worker();
    }
  }
  stats_.admission_ns.record(nanoseconds_between(now, Clock::now()));
  if (wakes) ready_.notify_one();  // a system call, and not under the lock that who wakes takes first
  if (!admission.refusal.ok() && status.ok()) status = explain_to(request, admission.refusal);
  tell(admission);
  if (!status.ok()) return refuse(request, std::move(status));
  if (slot >= 0) run(slot, {&request});
}

// Those who left the queue for another.
void Model::tell(const Admission& admission) {
  if (admission.superseded != nullptr) supersede(*admission.superseded);
  if (auto* displaced = admission.displaced) refuse(*displaced, explain_to(*displaced, admission.displacement));
}

void Model::cancel(Request& request) {
  request.cancelled.store(true, std::memory_order_relaxed);
  bool removed = false;
  {
    const std::lock_guard lock(mutex_);
    removed =
        scheduler_.remove(request) || (sequences_ && sequences_->remove(request)) || std::erase(turns_, &request) != 0;
    if (removed) learn(request, Clock::now());
    if (removed && is_settled()) settled_.notify_all();
  }
  if (removed) dispose({{}, {}, {&request}});
}

void Model::sleep(std::unique_lock<std::mutex>& lock, std::size_t worker, TimePoint until) {
  const auto set = [this, worker](TimePoint at) {
    sleeping_[worker] = at;
    first_wake_ = *std::min_element(sleeping_.begin(), sleeping_.end());
  };
  set(until);
  ready_.wait_until(lock, until);
  set(TimePoint::max());
}

// With mutex_ held: wakes a worker if there is something for it that none of them will see in time: a free slot for
// what waits, or a deadline before the first of them wakes up anyway. One that was called looks at everything.
void Model::call_worker() {
  if (calls_worker()) ready_.notify_one();
}

// With mutex_ held: true when a worker is to be woken, which is then the caller's to do.
bool Model::calls_worker() {
  if (called_ || scheduler_.empty()) return false;
  if (!has_slot() && scheduler_.next_deadline() >= first_wake_) return false;
  called_ = true;
  return true;
}

// With mutex_ held: how a promise was kept; missed: not at all. One whose caller has gone is known to be broken only
// near its deadline.
void Model::learn(const Request& request, TimePoint ended, bool missed) {
  const bool gone = request.cancelled.load(std::memory_order_relaxed);
  if (missed || (gone && ended + microseconds(times_.run_time(0).high_us) >= request.deadline)) {
    scheduler_.learn_miss(request);
  } else if (!gone) {
    scheduler_.learn(request, microseconds_between(request.arrival, ended) - request.predicted_us);
  }
}

// With mutex_ held: true when this thread will look at the queue itself, so that no worker need be woken for it.
bool Model::put_off() {
  auto* round = Round::current();
  if (round == nullptr || weak_from_this().expired() || scheduler_.empty()) return false;
  round->put_off(weak_from_this());
  return true;
}

// With mutex_ held.
Model::Turn Model::next_turn(TimePoint now) {
  Turn turn;
  if (sequences_) {
    sequences_->sweep(now);
    for (Request* request : sequences_->purge(now)) turn.refused.emplace_back(request, expired_status(*request, now));
    take_turns(now, turn.refused);
    turn.wake = sequences_->next_deadline();
  }
  turn.purged = scheduler_.purge(now);
  for (const auto* missed : {&turn.purged.expired, &turn.purged.hopeless}) {
    for (const Request* request : *missed) learn(*request, now, true);
  }
  for (const Request* request : turn.purged.cancelled) learn(*request, now);
  if (has_slot()) {
    auto next = scheduler_.next(now);
    turn.requests = std::move(next.requests);
    if (!turn.requests.empty()) turn.slot = take_slot(next.bucket, now);
    turn.wake = std::min(turn.wake, next.wake);
  }
  turn.wake = std::min(turn.wake, scheduler_.next_deadline());
  if (is_settled()) settled_.notify_all();
  return turn;
}

// A quick model's next batch is as well run by the thread that is there as by one that has to be woken.
void Model::take(Turn&& turn) {
  running_here = quick_ ? this : nullptr;
  dispose(turn.purged);
  for (auto& [request, status] : turn.refused) refuse(*request, std::move(status));
  if (turn.slot >= 0) run(turn.slot, std::move(turn.requests));
  running_here = nullptr;
}

void Model::run_waiting() {
  std::unique_lock lock(mutex_);
  for (int turns = 0; turns < kTurnsMax && !stopping_; ++turns) {
    auto turn = next_turn(Clock::now());
    if (turn.empty()) break;
    lock.unlock();
    take(std::move(turn));
    lock.lock();
  }
  call_worker();
}

// Every worker does whatever is next: answer what is not worth computing, run a batch, or sleep until one of
// both may be due.
void Model::work(std::size_t worker) {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    called_ = false;
    const auto now = Clock::now();
    if (steer(lock, now)) continue;
    std::vector<Request*> given_up;
    // Looks again often enough to notice a run that started meanwhile and hangs.
    const auto slice = std::min<Clock::duration>(kWaitSlice, microseconds(config_.watchdog_us / 2 + 1));
    auto wake = std::min(now + slice, give_up_hung_runs(now, given_up));
    if (pilot_) wake = std::min(wake, pilot_->next_due());
    auto turn = next_turn(now);
    if (turn.empty() && given_up.empty()) {
      sleep(lock, worker, std::min(wake, turn.wake));
      continue;
    }
    call_worker();  // for another slot, or for the deadlines, while this one is busy
    lock.unlock();
    fail(given_up, "a run took longer than " + std::to_string(config_.watchdog_us) + " us and was given up");
    take(std::move(turn));
    lock.lock();
  }
}

// Takes the requests of runs beyond the watchdog's limit; their slots stay lost until the engine comes back.
// Returns when the next run would be due to be given up.
TimePoint Model::give_up_hung_runs(TimePoint now, std::vector<Request*>& given_up) {
  auto next = TimePoint::max();
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    auto& slot = slots_[i];
    auto& requests = contents_[i].requests;
    if (requests.empty()) continue;
    const auto limit = slot.started + microseconds(config_.watchdog_us);
    if (limit > now) {
      next = std::min(next, limit);
      continue;
    }
    slot.abandoned = true;
    --in_use_;
    ++hung_;
    given_up.insert(given_up.end(), requests.begin(), requests.end());
    requests.clear();
    failures_in_a_row_ = std::max(failures_in_a_row_ + 1, kFailuresMax);
    last_try_ = now;
    stats_.hung.fetch_add(1, std::memory_order_relaxed);
  }
  return next;
}

void Model::run(int index, std::vector<Request*> requests) {
  const auto& slot = slots_[index];
  auto& content = contents_[index];
  for (const Request* request : requests) {
    if (request->deadline <= slot.started) stats_.expired_executed.fetch_add(1, std::memory_order_relaxed);
  }
  content.batch.slot = index;
  content.batch.bucket = bucket_stats_[slot.bucket]->rows;
  std::vector<Refused> unread;
  auto failure = thrown_by([&] {
    while (!requests.empty()) {
      auto missing = content.memory.gather(config_, requests, *engine_, content.batch);
      if (!missing) break;
      std::erase(requests, missing->first);
      unread.push_back(std::move(*missing));
    }
    if (sequences_ && !requests.empty()) content.memory.gather_states(config_, requests, content.batch);
  });
  const bool has_requests = !requests.empty();
  std::int64_t rows = 0;
  for (const Request* request : requests) rows += request->rows;
  const auto idle_us = microseconds_between(slot.free_since, slot.started);
  for (Request* request : requests) {
    auto& timing = request->timing;
    timing.queue_us = microseconds_between(request->arrival, slot.started);
    timing.batch_wait_us = std::clamp<std::int64_t>(idle_us, 0, timing.queue_us);
    timing.batch_size = static_cast<std::int32_t>(rows);
  }
  {
    const std::lock_guard lock(mutex_);
    if (has_requests) {
      content.requests = std::move(requests);
    } else {
      free_slot(index, Clock::now());
    }
  }
  for (auto& [request, status] : unread) refuse(*request, std::move(status));
  if (!has_requests) return;
  stats_.executions.fetch_add(1, std::memory_order_relaxed);
  if (failure.empty()) {
    failure = thrown_by(
        [&] { engine_->submit(content.batch, [this, index](const std::string& error) { finish(index, error); }); });
  }
  if (!failure.empty()) finish(index, failure);
}

// With mutex_ held.
void Model::free_slot(int index, TimePoint now) {
  auto& slot = slots_[index];
  --(slot.abandoned ? hung_ : in_use_);
  slot.busy = false;
  slot.abandoned = false;
  slot.free_since = now;
  free_slots_.push_back(index);
  if (running_here != this) call_worker();
  if (!admitting_) settled_.notify_all();
}

void Model::finish(int index, const std::string& error) noexcept {
  const auto& slot = slots_[index];
  auto& content = contents_[index];
  std::vector<Request*> requests;
  {
    const std::lock_guard lock(mutex_);
    requests.swap(content.requests);  // empty when the watchdog was first
  }
  std::vector<Scattered> scattered;
  std::string failure = error;
  if (failure.empty() && !requests.empty()) {
    try {
      scattered = scatter(config_, requests, content.batch);
      if (sequences_) keep_states(config_, requests, content.batch);
    } catch (const std::exception& e) {
      failure = e.what();
    }
  }
  const auto ended = Clock::now();
  const auto started = slot.started;
  const auto run_us = microseconds_between(started, ended);
  for (Request* request : requests) request->timing.compute_us = run_us;
  if (failure.empty()) {
    auto& bucket = *bucket_stats_[slot.bucket];
    bucket.run.record(run_us);
    bucket.served.fetch_add(1, std::memory_order_relaxed);
    bucket.served_us.fetch_add(static_cast<std::uint64_t>(run_us), std::memory_order_relaxed);
    stats_.last_answer_us.store(ended.time_since_epoch() / microseconds(1), std::memory_order_relaxed);
  }
  {
    // The next batch may start while these answers are written.
    const std::lock_guard lock(mutex_);
    if (failure.empty()) times_.observe(slot.bucket, run_us);
    for (const Request* request : requests) {
      if (failure.empty()) learn(*request, ended);
    }
    failures_in_a_row_ = failure.empty() ? 0 : failures_in_a_row_ + 1;
    if (!failure.empty()) last_try_ = ended;
    free_slot(index, ended);
  }
  if (!failure.empty()) return fail(requests, failure);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Request& request = *requests[i];
    if (!scattered[i].status.ok()) {
      refuse(request, std::move(scattered[i].status));
      continue;
    }
    if (sequences_) {
      // Its caller hears nothing of it any more, so the sequence must not go on without it being known.
      if (request.cancelled.load(std::memory_order_relaxed)) {
        refuse(request, cancelled_status());
        continue;
      }
      if (request.deadline <= ended) {
        refuse(request, late_status(request));
        continue;
      }
    }
    Result result;
    result.outputs = std::move(scattered[i].outputs);
    result.timing = request.timing;
    stats_.queue.record(result.timing.queue_us);
    stats_.batch_wait.record(result.timing.batch_wait_us);
    stats_.compute.record(run_us);
    stats_.rows.fetch_add(static_cast<std::uint64_t>(request.rows), std::memory_order_relaxed);
    answer(request, std::move(result));
  }
}

void Model::answer(Request& request, Result&& result) {
  const auto now = Clock::now();
  if (request.sequence_state) {
    const std::lock_guard lock(mutex_);
    if (Request* next = sequences_->leave(request, result.status.ok(), now); next != nullptr) {
      turns_.push_back(next);
      ready_.notify_one();
    }
  }
  auto& timing = result.timing;
  timing.total_us = microseconds_between(request.arrival, now);
  timing.predicted_us = request.predicted_us;
  timing.slack_us = request.deadline == TimePoint::max() ? 0 : microseconds_between(now, request.deadline);
  stats_.finished[static_cast<std::size_t>(result.status.reason)].fetch_add(1, std::memory_order_relaxed);
  if (!result.status.ok()) {
    stats_.failed_us.fetch_add(static_cast<std::uint64_t>(std::max<std::int64_t>(timing.total_us, 0)),
                               std::memory_order_relaxed);
  }
  auto& of_class = stats_.classes[std::clamp<std::size_t>(request.priority, 0, Scheduler::kClasses - 1)];
  if (result.status.ok()) {
    stats_.total.record(timing.total_us);
    if (pilot_) pilot_->record_answer(request.arrival, timing.total_us);
    const auto error_us = timing.total_us - timing.predicted_us;
    (error_us > 0 ? stats_.late : stats_.early).record(std::abs(error_us));
    (timing.slack_us >= 0 ? of_class.slack : of_class.lateness).record(std::abs(timing.slack_us));
    (timing.slack_us >= 0 ? of_class.met : of_class.missed).fetch_add(1, std::memory_order_relaxed);
  } else if (result.status.reason != Reason::kCancelled && result.status.reason != Reason::kInvalidInput) {
    of_class.missed.fetch_add(1, std::memory_order_relaxed);
  }
  complete_in_turn(request, std::move(result));
}

void Model::count_cache_hit(TimePoint arrival, TimePoint looked_up) noexcept {
  const auto now = Clock::now();
  stats_.cache_hits.fetch_add(1, std::memory_order_relaxed);
  const auto took_us = std::max<std::int64_t>(0, microseconds_between(arrival, now));
  stats_.cache_hit_us.fetch_add(static_cast<std::uint64_t>(took_us), std::memory_order_relaxed);
  const auto took_ns = nanoseconds_between(looked_up, now);
  stats_.cache_hit_ns.fetch_add(static_cast<std::uint64_t>(took_ns), std::memory_order_relaxed);
  stats_.last_answer_us.store(now.time_since_epoch() / microseconds(1), std::memory_order_relaxed);
}

void Model::count_cache_miss(TimePoint looked_up) noexcept {
  stats_.cache_misses.fetch_add(1, std::memory_order_relaxed);
  count_cache_put(looked_up);
}

void Model::count_cache_put(TimePoint began) noexcept {
  const auto took_ns = nanoseconds_between(began, Clock::now());
  stats_.cache_miss_ns.fetch_add(static_cast<std::uint64_t>(took_ns), std::memory_order_relaxed);
}

void Model::refuse(Request& request, Status status) {
  Result result;
  result.status = std::move(status);
  auto& timing = result.timing = request.timing;
  const auto total_us = microseconds_between(request.arrival, Clock::now());
  if (timing.batch_size == 0) {
    timing.queue_us = total_us;
  } else if (timing.compute_us == 0) {  // given up while it ran
    timing.compute_us = total_us - timing.queue_us;
  }
  if (result.status.reason != Reason::kCancelled) {  // whose caller hears nothing
    add_fact(result.status, "model", config_.name);
    add_fact(result.status, "queue_us", std::to_string(timing.queue_us));
    add_fact(result.status, "total_us", std::to_string(total_us));
    if (request.predicted_us > 0) add_fact(result.status, "predicted_us", std::to_string(request.predicted_us));
    if (timing.batch_size > 0) {
      add_fact(result.status, "batch_wait_us", std::to_string(timing.batch_wait_us));
      add_fact(result.status, "compute_us", std::to_string(timing.compute_us));
      add_fact(result.status, "batch_size", std::to_string(timing.batch_size));
    }
  }
  answer(request, std::move(result));
}

void Model::fail(const std::vector<Request*>& requests, const std::string& failure) {
  for (Request* request : requests) {
    refuse(*request,
           {Reason::kEngineFailed,
            label(config_) + " failed in " + engine_->kind() + ": " + failure + "; the request may be sent again",
            0,
            {}});
  }
}

void Model::supersede(Request& request) {
  refuse(request, {Reason::kSuperseded,
                   "a newer frame of stream \"" + request.stream_id + "\" took the place of sequence " +
                       std::to_string(request.sequence) + "; wait for its answer",
                   0,
                   {}});
}

void Model::dispose(const Purged& purged) {
  const auto now = Clock::now();
  for (Request* request : purged.expired) refuse(*request, expired_status(*request, now));
  for (Request* request : purged.hopeless) {
    const auto waited_us = microseconds_between(request->arrival, now);
    const auto waited = std::to_string(waited_us);
    const auto left = microseconds_between(now, request->deadline);
    // Were it run now after all.
    const auto predicted = std::to_string(waited_us + run_time_of(*request).median_us);
    refuse(*request, {Reason::kDeadlineUnmeetable,
                      "after " + waited + " us in the queue of " + config_.name + " the " + std::to_string(left) +
                          " us left are less than a run takes; it was not computed",
                      1000,
                      {{"predicted_us", predicted}, {"queue_us", waited}, {"left_us", std::to_string(left)}}});
  }
  for (Request* request : purged.cancelled) refuse(*request, cancelled_status());
}

Status Model::expired_status(const Request& request, TimePoint now) const {
  const auto waited = std::to_string(microseconds_between(request.arrival, now));
  return {Reason::kDeadlinePassed,
          "deadline passed after " + waited + " us in the queue of " + config_.name + "; it was not computed",
          0,
          {{"queue_us", waited}}};
}

bool Model::is_settled() const noexcept {
  return scheduler_.empty() && free_slots_.size() == slots_.size() && turns_.empty() &&
         (sequences_ == nullptr || sequences_->waiting() == 0);
}

std::size_t Model::drain(TimePoint until) {
  std::vector<Request*> left;
  {
    std::unique_lock lock(mutex_);
    if (stopping_) return 0;
    admitting_ = false;
    while (!is_settled() && Clock::now() < until) settled_.wait_until(lock, until);
    left = scheduler_.drain();
    left.insert(left.end(), turns_.begin(), turns_.end());
    turns_.clear();
    if (sequences_) {
      const auto waiting = sequences_->drain();
      left.insert(left.end(), waiting.begin(), waiting.end());
    }
    stopping_ = true;
    ready_.notify_all();
  }
  for (Request* request : left) {
    refuse(*request,
           {Reason::kDraining, config_.name + " was unloaded before this request ran; send it again", 1000, {}});
  }
  for (auto& worker : workers_) worker.join();  // at most one batch each
  workers_.clear();
  engine_->close();
  return left.size();
}

QueueSetting Model::setting() const {
  const std::lock_guard lock(mutex_);
  return setting_;
}

RunTime Model::run_time_of(const Request& request) const {
  const std::lock_guard lock(mutex_);
  return times_.run_time(times_.bucket_for(request.rows));
}

std::vector<RunTime> Model::run_times() const {
  const std::lock_guard lock(mutex_);
  std::vector<RunTime> times;
  for (std::size_t b = 0; b < times_.size(); ++b) times.push_back(times_.run_time(b));
  return times;
}

std::int64_t Model::margin_us() const {
  const std::lock_guard lock(mutex_);
  return scheduler_.margin_us();
}

std::size_t Model::queued() const {
  const std::lock_guard lock(mutex_);
  return scheduler_.size() + turns_.size() + (sequences_ ? sequences_->waiting() : 0);
}

SequenceStats Model::sequences() const {
  const std::lock_guard lock(mutex_);
  if (!sequences_) return {};
  return {sequences_->open(), sequences_->started(), sequences_->expired(), sequences_->displaced()};
}

bool Model::healthy() const {
  const std::lock_guard lock(mutex_);
  return failures_in_a_row_ < kFailuresMax;
}

}  // namespace starling
