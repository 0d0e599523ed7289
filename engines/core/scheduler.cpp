#include "scheduler.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace starling {
namespace {

// Tenants that wait for nothing are remembered, so that a busy one can not reset its debt by pausing for a moment.
constexpr std::size_t kTenantsMax = 1024;
// What a tenant that waits for nothing saves up: enough for a few requests that come at once, as those of any random
// process do. With one a tenant that asks for a third of its share lost every twelfth request to its own neighbours.
constexpr int kQuantaMax = 4;

// FNV-1a; never 0, which is no stream.
std::uint64_t hash_of(const std::string& stream_id) noexcept {
  std::uint64_t hash = 14695981039346656037U;
  for (const char c : stream_id) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211U;
  return hash | 1U;
}

}  // namespace

bool same_shapes(const Request& a, const Request& b) noexcept {
  return std::equal(a.inputs.begin(), a.inputs.end(), b.inputs.begin(), b.inputs.end(),
                    [](const InputTensor& x, const InputTensor& y) {
                      return std::equal(x.shape.begin() + 1, x.shape.end(), y.shape.begin() + 1, y.shape.end());
                    });
}

Status explain(const Refusal& refusal, const Request& request, const QueueBounds& bounds) {
  Status status{refusal.reason, {}, refusal.retry_delay_us, {}};
  switch (refusal.reason) {
    case Reason::kQueueFull:
      status.message = "the queue is full: " + std::to_string(refusal.queued) + " requests and " +
                       std::to_string(refusal.queued_bytes) + " bytes wait, at most " +
                       std::to_string(bounds.requests_max) + " and " + std::to_string(bounds.bytes_max) +
                       "; retry after the delay or on another node";
      break;
    case Reason::kSuperseded:
      status.message = "sequence " + std::to_string(request.sequence) + " of stream \"" + request.stream_id +
                       "\" is older than one that waits; send newer frames only";
      return status;
    default:
      status.message =
          "an answer is predicted in " + std::to_string(refusal.predicted_us) + " us, " +
          std::to_string(refusal.left_us) +
          (request.due < request.deadline ? " us are left by the model's latency objective" : " us are left") +
          "; allow more time, a smaller model or another node";
  }
  status.facts = {{"predicted_us", std::to_string(refusal.predicted_us)},
                  {"left_us", std::to_string(refusal.left_us)},
                  {"queued", std::to_string(refusal.queued)}};
  return status;
}

Scheduler::Scheduler(const SchedulerOptions& options, const ExecutionTime& times)
    : options_(options), times_(times), largest_bucket_(times.size() - 1) {}

TimePoint Scheduler::due_of(const Request& request) const noexcept {
  if (fifo() || options_.bound_us == 0) return request.deadline;
  return std::min(request.deadline, request.arrival + std::chrono::microseconds(options_.bound_us));
}

int Scheduler::band_of(const Request& request) const noexcept {
  return fifo() ? 0 : std::clamp<int>(request.priority, 0, kClasses - 1);
}

std::string_view Scheduler::payer_of(const Request& request) const noexcept {
  return fifo() ? std::string_view{} : std::string_view{request.tenant};
}

Scheduler::Place Scheduler::place_of(const Request& request, int band) {
  const auto payer = payer_of(request);
  auto& tenants = classes_[band].tenants;
  const auto at = std::lower_bound(tenants.begin(), tenants.end(), payer,
                                   [](const Tenant& tenant, std::string_view name) { return tenant.name < name; });
  return {band, at, at != tenants.end() && at->name == payer};
}

QueueKey Scheduler::key_of(const Request& request) const noexcept {
  return {fifo() ? TimePoint{} : request.due, request.ticket_};
}

// In the time of a run, not in time as such: what is a moment for a detector is the whole deadline of a tiny net.
std::int64_t Scheduler::quantum_us() const noexcept {
  return std::clamp<std::int64_t>(times_.run_time(largest_bucket_).median_us, 1, options_.quantum_us_max);
}

// At most one, since a newer one takes its place; it may be of another class.
Request* Scheduler::queued_frame_of(const Request& request, const Place& place) {
  for (int band = 0; band < kClasses; ++band) {
    if (classes_[band].size == 0) continue;
    const auto there = band == place.band ? place : place_of(request, band);
    if (!there.is_known) continue;
    if (auto* frame = there.tenant->queue.find(request.stream_, request.stream_id); frame != nullptr) return frame;
  }
  return nullptr;
}

// What runs before the request, were it queued: more urgent classes, its own tenant's earlier deadlines, and of each
// other tenant what it can pay for by its credit and by the rounds that begin before the own credit reaches to the
// request. No round begins while a tenant that waits has any credit left.
Scheduler::Ahead Scheduler::ahead_of(const Request& request, const Place& place, const Request* leaving) const {
  std::int64_t urgent = 0;
  for (int c = place.band + 1; c < kClasses; ++c) urgent += class_rows_[c];
  const auto& tenants = classes_[place.band].tenants;
  const Tenants::const_iterator own = place.is_known ? place.tenant : tenants.end();
  const auto earlier = [&](const Tenant& tenant) {
    std::int64_t rows = 0;
    for (const auto& entry : tenant.queue) {
      if (entry.key.due > request.due) break;
      if (entry.request != leaving) rows += entry.rows;
    }
    return rows;
  };
  const std::int64_t before = place.is_known ? earlier(*own) : 0;
  const auto row_us = std::max<std::int64_t>(1, times_.row_us(largest_bucket_));
  const auto owed_us = before * row_us - (place.is_known ? own->credit_us : quantum_us());
  const bool beyond_share = owed_us >= 0;
  const auto lift_us = beyond_share ? (owed_us / quantum_us() + 1) * quantum_us() : 0;
  std::int64_t others = 0;
  for (auto it = tenants.begin(); it != tenants.end(); ++it) {
    if (it == own || it->queue.empty() || it->credit_us + lift_us <= 0) continue;
    const auto paid = (it->credit_us + lift_us + row_us - 1) / row_us;
    // While this one is in debt it is passed by everyone in credit, whatever the deadlines say.
    others += std::min(paid, beyond_share ? it->rows : earlier(*it));
  }
  return {urgent + before + others, beyond_share};
}

// The latest start behind that much engine time: while it is worked off no slot is idle.
std::int64_t Scheduler::share_us(std::int64_t us) const noexcept { return (us + options_.slots - 1) / options_.slots; }

// Would a request that was admitted before, of the same class and tenant but with a later deadline, now be late?
// `ahead_us`: engine time of what runs and of what is queued before the newcomer.
bool Scheduler::breaks_a_promise(const Request& request, const Place& place, const Request* leaving,
                                 std::int64_t ahead_us, TimePoint now) const {
  if (!place.is_known) return false;
  std::int64_t rows = request.rows;
  const auto& queue = place.tenant->queue;
  for (const auto* other = queue.after(request.due); other != queue.end(); ++other) {
    if (other->request == leaving) continue;
    rows += other->rows;
    const auto left = microseconds_between(now, other->key.due);
    // Slots share what is before it; its own run is on one of them.
    const auto alone_us = times_.run_time(times_.bucket_for(other->rows)).high_us * (options_.slots - 1);
    const auto done_us = [&](std::int64_t n) { return share_us(ahead_us + times_.cautious_backlog_us(n) + alone_us); };
    // One that is lost already is no reason to lose another.
    if (done_us(rows) > left && done_us(rows - request.rows) <= left) return true;
  }
  return false;
}

Refusal Scheduler::refuse(const Request& request, Reason reason, std::int64_t predicted_us, TimePoint now) const {
  Refusal refusal{reason, 0, predicted_us, microseconds_between(now, request.due), size_, size_bytes_};
  if (reason == Reason::kQueueFull) {
    refusal.retry_delay_us = std::max<std::int64_t>(1000, times_.backlog_us(rows_) / options_.slots);
  } else if (reason == Reason::kDeadlineUnmeetable) {
    // After this the same budget would be enough, if nobody else asked meanwhile.
    refusal.retry_delay_us = std::max<std::int64_t>(1000, predicted_us - std::max<std::int64_t>(0, refusal.left_us));
  }
  return refusal;
}

bool Scheduler::is_full_for(const Request& request, const Request* leaving) const noexcept {
  const std::size_t gone = leaving != nullptr ? 1 : 0;
  const auto gone_bytes = leaving != nullptr ? leaving->size_bytes : 0;
  return size_ - gone >= options_.bounds.requests_max ||
         size_bytes_ - gone_bytes + request.size_bytes > options_.bounds.bytes_max;
}

// Who leaves a full queue for a request that has more right to be there; null when nobody does.
Request* Scheduler::crowding_out(const Place& place) const {
  const auto least = std::find_if(classes_.begin(), classes_.end(), [](const Class& c) { return c.size > 0; });
  const auto band = least - classes_.begin();
  if (fifo() || least == classes_.end() || band > place.band) return nullptr;
  const auto& most = *std::max_element(least->tenants.begin(), least->tenants.end(),
                                       [](const auto& a, const auto& b) { return a.queue.size() < b.queue.size(); });
  if (band == place.band && most.queue.size() <= 1 + (place.is_known ? place.tenant->queue.size() : 0)) return nullptr;
  return most.queue.back().request;
}

bool Scheduler::may_probe(TimePoint now, bool idle) const noexcept {
  return idle && empty() && microseconds_between(last_start_, now) > options_.probe_after_us;
}

Refusal Scheduler::check_alone(Request& request, TimePoint now, std::int64_t& predicted_us) {
  request.due = request.deadline;  // a bound is never below one run
  request.beyond_share_ = false;
  predicted_us = times_.run_time(times_.bucket_for(request.rows)).high_us;
  if (!fifo() && now + std::chrono::microseconds(predicted_us) > request.deadline && !may_probe(now, true)) {
    return refuse(request, Reason::kDeadlineUnmeetable, predicted_us, now);
  }
  last_start_ = now;
  return {};
}

Admission Scheduler::offer(Request& request, TimePoint now, const Running& running) {
  Admission admission;
  request.due = due_of(request);
  auto place = place_of(request);
  request.stream_ = fifo() || request.stream_id.empty() ? 0 : hash_of(request.stream_id);
  Request* leaving = request.stream_ == 0 ? nullptr : queued_frame_of(request, place);
  if (leaving != nullptr && leaving->sequence >= request.sequence) [[unlikely]] {
    admission.refusal = refuse(request, Reason::kSuperseded, 0, now);
    return admission;
  }
  const auto ahead = ahead_of(request, place, leaving);
  const auto ahead_us = times_.cautious_backlog_us(ahead.rows);
  request.beyond_share_ = ahead.beyond_share;
  // What runs now does not delay it while a slot is idle and nobody is before it.
  const bool waits = ahead_us > 0 || running.slots >= options_.slots;
  const auto own = times_.run_time(times_.bucket_for(request.rows));
  admission.predicted_us = (waits ? share_us(running.left_us + ahead_us) : 0) + own.high_us;
  Request* crowd = nullptr;
  if (is_full_for(request, leaving)) [[unlikely]] {
    if (leaving == nullptr) crowd = crowding_out(place);
    if (crowd == nullptr || is_full_for(request, crowd)) {
      admission.refusal = refuse(request, Reason::kQueueFull, admission.predicted_us, now);
      return admission;
    }
  }
  request.probe_ = request.deadline > now && may_probe(now, running.slots == 0);
  const auto promised_us = admission.predicted_us + (waits ? margins_[ahead.beyond_share].us() : 0);
  if (!fifo() && !request.probe_ &&
      (now + std::chrono::microseconds(promised_us) > request.due ||
       breaks_a_promise(request, place, leaving, running.left_us + ahead_us, now))) {
    admission.refusal = refuse(request, Reason::kDeadlineUnmeetable, promised_us, now);
    return admission;
  }
  if (leaving != nullptr || crowd != nullptr) clear_place(admission, leaving, crowd, now);
  push(request, place);
  return admission;
}

// For a request that comes in their stead.
void Scheduler::clear_place(Admission& admission, Request* leaving, Request* crowd, TimePoint now) {
  if (leaving != nullptr) {
    erase(*leaving);
    admission.superseded = leaving;
  }
  if (crowd != nullptr) {
    admission.displacement = refuse(*crowd, Reason::kQueueFull, crowd->predicted_us, now);
    admission.displaced = crowd;
    erase(*crowd);
  }
}

void Scheduler::learn(const Request& request, std::int64_t late_us) noexcept {
  margins_[request.beyond_share_].observe(late_us, times_.run_time(0).high_us);
}

void Scheduler::learn_miss(const Request& request) noexcept {
  margins_[request.beyond_share_].observe_miss(times_.run_time(0).high_us);
}

void Scheduler::add_tenant(const Request& request, Place& place) {
  auto& tenants = classes_[place.band].tenants;
  if (tenants.size() >= kTenantsMax) {
    std::erase_if(tenants, [](const Tenant& tenant) { return tenant.queue.empty(); });
    place = place_of(request);
  }
  place.tenant = tenants.insert(place.tenant, {std::string(payer_of(request)), {}, quantum_us(), 0});
}

void Scheduler::push(Request& request, Place& place) {
  request.ticket_ = next_ticket_++;
  request.queued_in_ = this;
  if (!place.is_known) [[unlikely]] {
    add_tenant(request, place);
  }
  auto& band = classes_[place.band];
  auto& tenant = *place.tenant;
  tenant.queue.insert({key_of(request), request.deadline, request.rows, request.stream_, &request});
  tenant.rows += request.rows;
  class_rows_[place.band] += request.rows;
  if (band.size++ == 0) band.passed_since = request.arrival;
  ++size_;
  rows_ += request.rows;
  size_bytes_ += request.size_bytes;
  next_deadline_ = std::min(next_deadline_, request.deadline);
}

Scheduler::Tenant& Scheduler::erase(Request& request) {
  const auto place = place_of(request);
  auto& tenant = *place.tenant;
  tenant.queue.erase(key_of(request));
  tenant.rows -= request.rows;
  class_rows_[place.band] -= request.rows;
  --classes_[place.band].size;
  --size_;
  rows_ -= request.rows;
  size_bytes_ -= request.size_bytes;
  request.queued_in_ = nullptr;
  next_deadline_left_ = next_deadline_left_ || request.deadline == next_deadline_;
  return tenant;
}

bool Scheduler::remove(Request& request) {
  if (request.queued_in_ != this) return false;
  erase(request);
  return true;
}

template <class Visit>
void Scheduler::each(const Visit& visit) const {
  for (const auto& band : classes_) {
    if (band.size == 0) continue;
    for (const auto& tenant : band.tenants) {
      for (const auto& entry : tenant.queue) visit(entry);
    }
  }
}

Purged Scheduler::purge(TimePoint now) {
  Purged purged;
  each([&](const TenantQueue::Entry& entry) {
    auto* request = entry.request;
    if (request->cancelled.load(std::memory_order_relaxed)) {
      purged.cancelled.push_back(request);
    } else if (fifo()) {
      return;
    } else if (entry.deadline <= now) {
      purged.expired.push_back(request);
    } else if (!request->probe_ &&
               microseconds_between(now, entry.deadline) < times_.run_time(times_.bucket_for(entry.rows)).median_us) {
      purged.hopeless.push_back(request);
    }
  });
  for (const auto* gone : {&purged.expired, &purged.hopeless, &purged.cancelled}) {
    for (Request* request : *gone) erase(*request);
  }
  return purged;
}

// The most urgent class with work, unless another one was passed over beyond the starvation bound. One that waits as
// a whole, not each request in it: a long backlog is no reason to go before everybody until it is worked off.
Scheduler::Class& Scheduler::class_to_serve(TimePoint now) {
  Class* urgent = nullptr;
  Class* passed = nullptr;
  for (auto& band : classes_) {
    if (band.size == 0) continue;
    urgent = &band;
    if (microseconds_between(band.passed_since, now) <= options_.starvation_us) continue;
    if (passed == nullptr || band.passed_since < passed->passed_since) passed = &band;
  }
  return passed != nullptr ? *passed : *urgent;
}

// The earliest deadline among the tenants that have credit; null when no waiting tenant has any.
Request* Scheduler::first_of(Class& band) const {
  Request* first = nullptr;
  for (const auto& tenant : band.tenants) {
    if (tenant.queue.empty() || tenant.credit_us <= 0) continue;
    Request* candidate = tenant.queue.front().request;
    if (first == nullptr || key_of(*candidate) < key_of(*first)) first = candidate;
  }
  return first;
}

// Gives every tenant as many quanta as the least indebted waiting one needs; nobody saves up more than a few.
void Scheduler::start_round(Tenants& tenants, std::int64_t quantum_us) {
  auto most = std::numeric_limits<std::int64_t>::min();
  for (const auto& tenant : tenants) {
    if (!tenant.queue.empty()) most = std::max(most, tenant.credit_us);
  }
  const auto lift = (-most / quantum_us + 1) * quantum_us;
  for (auto& tenant : tenants) tenant.credit_us = std::min(kQuantaMax * quantum_us, tenant.credit_us + lift);
}

// Who may share a batch with `first`, in the order in which they would run, cut where the largest bucket is full.
std::vector<Request*> Scheduler::companions(Request& first) const {
  std::vector<Request*> joining{&first};
  const auto largest = std::max(first.rows, times_.rows(largest_bucket_));
  auto rows = first.rows;
  for (int c = kClasses - 1; c >= 0 && rows < largest; --c) {
    std::vector<std::pair<bool, Request*>> band;  // in debt, request
    for (const auto& tenant : classes_[c].tenants) {
      std::int64_t seen = 0;
      for (const auto& entry : tenant.queue) {
        if (seen >= largest) break;
        if (entry.request == &first || !same_shapes(first, *entry.request)) continue;
        band.emplace_back(tenant.credit_us <= 0, entry.request);
        seen += entry.rows;
      }
    }
    std::sort(band.begin(), band.end(), [this](const auto& a, const auto& b) {
      return a.first != b.first ? b.first : key_of(*a.second) < key_of(*b.second);
    });
    for (const auto& [in_debt, request] : band) {
      if (rows + request->rows > largest) continue;
      rows += request->rows;
      joining.push_back(request);
    }
  }
  return joining;
}

// The bucket with the least engine time a row among those that pay and whose run every member survives; when there is
// none, the one that is quickest over.
std::size_t Scheduler::choose_bucket(const std::vector<Request*>& joining, TimePoint now) const {
  const auto smallest = times_.bucket_for(joining.front()->rows);
  auto best = smallest;
  double best_cost = 0;
  bool best_safe = false;
  for (auto b = smallest; b <= std::max(smallest, largest_bucket_); ++b) {
    if (b != smallest && !times_.pays(b)) continue;
    std::int64_t rows = 0;
    auto earliest = TimePoint::max();
    for (const Request* request : joining) {
      if (rows + request->rows > times_.rows(b)) continue;
      rows += request->rows;
      // The deadline, not the due time: an objective is no reason to answer fewer by smaller batches.
      earliest = std::min(earliest, request->deadline);
    }
    const auto run = times_.run_time(b);
    const bool safe = fifo() || microseconds_between(now, earliest) >= run.high_us;
    const auto cost = static_cast<double>(run.median_us) / static_cast<double>(safe ? rows : 1);
    if (b == smallest || (safe && !best_safe) || (safe == best_safe && cost < best_cost)) {
      best = b;
      best_cost = cost;
      best_safe = safe;
    }
  }
  return best;
}

Dispatch Scheduler::next(TimePoint now) {
  Dispatch dispatch;
  if (empty()) return dispatch;
  auto& band = class_to_serve(now);
  Request* first = first_of(band);
  if (first == nullptr) {
    start_round(band.tenants, quantum_us());
    first = first_of(band);
  }
  const auto joining = companions(*first);
  std::int64_t waiting = 0;
  auto earliest = TimePoint::max();
  for (const Request* request : joining) {
    waiting += request->rows;
    earliest = std::min(earliest, request->due);
  }
  // Waiting for more pays only while the largest batch is not full and nobody's slack is eaten by it.
  if (options_.batch_delay_us > 0 && waiting < times_.rows(times_.largest_that_pays(largest_bucket_))) {
    const auto latest_start = earliest - std::chrono::microseconds(times_.run_time(times_.bucket_for(waiting)).high_us);
    dispatch.wake = std::min(first->arrival + std::chrono::microseconds(options_.batch_delay_us), latest_start);
    if (dispatch.wake > now) return dispatch;
    dispatch.wake = TimePoint::max();
  }
  dispatch.bucket = choose_bucket(joining, now);
  std::int64_t rows = 0;
  for (Request* request : joining) {
    if (rows + request->rows > times_.rows(dispatch.bucket)) continue;
    rows += request->rows;
    dispatch.requests.push_back(request);
  }
  last_start_ = now;
  const auto run_us = times_.run_time(dispatch.bucket).median_us;
  for (Request* request : dispatch.requests) {
    classes_[band_of(*request)].passed_since = now;
    erase(*request).credit_us -= std::max<std::int64_t>(1, run_us * request->rows / rows);
  }
  return dispatch;
}

std::vector<Request*> Scheduler::drain() {
  std::vector<Request*> all;
  all.reserve(size_);
  each([&all](const TenantQueue::Entry& entry) { all.push_back(entry.request); });
  for (auto* request : all) erase(*request);
  return all;
}

void Scheduler::set_bound_us(std::int64_t us) {
  if (us == options_.bound_us) return;
  options_.bound_us = us;
  for (auto& band : classes_) {
    for (auto& tenant : band.tenants) {
      tenant.queue.reorder([this](Request& request) {
        request.due = due_of(request);
        return key_of(request);
      });
    }
  }
}

TimePoint Scheduler::next_deadline() noexcept {
  if (fifo()) return TimePoint::max();
  if (std::exchange(next_deadline_left_, false)) {
    next_deadline_ = TimePoint::max();
    each([this](const TenantQueue::Entry& entry) { next_deadline_ = std::min(next_deadline_, entry.deadline); });
  }
  return next_deadline_;
}

}  // namespace starling
