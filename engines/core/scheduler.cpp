#include "scheduler.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace starling {
namespace {

// Tenants that wait for nothing are remembered, so that a busy one can not reset its debt by pausing for a moment.
constexpr std::size_t kTenantsMax = 1024;

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

Scheduler::Tenant& Scheduler::tenant_of(const Request& request) {
  return classes_[band_of(request)].tenants.find(payer_of(request))->second;
}

QueueKey Scheduler::key_of(const Request& request) const noexcept {
  return {fifo() ? TimePoint{} : request.due, request.ticket_};
}

// Engine time of one more row in the cheapest batch.
std::int64_t Scheduler::row_us() const noexcept {
  const auto rows = times_.rows(largest_bucket_);
  return std::max<std::int64_t>(1, times_.backlog_us(rows) / rows);
}

// In the time of a run, not in time as such: what is a moment for a detector is the whole deadline of a tiny net.
std::int64_t Scheduler::quantum_us() const noexcept {
  return std::clamp<std::int64_t>(times_.run_time(largest_bucket_).median_us, 1, options_.quantum_us_max);
}

Request* Scheduler::queued_frame_of(const Request& request) const {
  if (fifo() || request.stream_id.empty()) return nullptr;
  const auto it = frames_.find(request.stream_key());
  return it == frames_.end() ? nullptr : it->second;
}

// Rows that will run before the request, were it queued: more urgent classes, its own tenant's earlier deadlines, and
// of each other tenant at most what fairness lets pass.
std::int64_t Scheduler::rows_ahead(const Request& request, const Request* leaving) const {
  const int band = band_of(request);
  std::int64_t urgent = 0;
  for (int c = band + 1; c < kClasses; ++c) urgent += classes_[c].rows;
  const auto& tenants = classes_[band].tenants;
  const auto own = tenants.find(payer_of(request));
  const bool in_credit = own == tenants.end() || own->second.credit_us > 0;
  const auto earlier = [&](const Tenant& tenant) {
    std::int64_t rows = 0;
    for (const auto& [key, other] : tenant.queue) {
      if (key.due > request.due) break;
      if (other != leaving) rows += other->rows;
    }
    return rows;
  };
  const std::int64_t before = own == tenants.end() ? 0 : earlier(own->second);
  const std::int64_t share = before + request.rows + quantum_us() / row_us();
  std::int64_t others = 0;
  for (auto it = tenants.begin(); it != tenants.end(); ++it) {
    if (it == own || it->second.queue.empty()) continue;
    // A tenant in debt is passed by everyone in credit, whatever the deadlines say.
    const bool passes = !in_credit && it->second.credit_us > 0;
    others += std::min(share, passes ? it->second.rows : earlier(it->second));
  }
  return urgent + before + others;
}

// The latest start behind that much engine time: while it is worked off no slot is idle.
std::int64_t Scheduler::share_us(std::int64_t us) const noexcept { return (us + options_.slots - 1) / options_.slots; }

// Would a request that was admitted before, of the same class and tenant but with a later deadline, now be late?
// `ahead_us`: engine time of what runs and of what is queued before the newcomer.
bool Scheduler::breaks_a_promise(const Request& request, const Request* leaving, std::int64_t ahead_us,
                                 TimePoint now) const {
  const auto& tenants = classes_[band_of(request)].tenants;
  const auto own = tenants.find(payer_of(request));
  if (own == tenants.end()) return false;
  std::int64_t rows = request.rows;
  const auto& queue = own->second.queue;
  for (auto it = queue.upper_bound({request.due, ~std::uint64_t{0}}); it != queue.end(); ++it) {
    const Request& other = *it->second;
    if (&other == leaving) continue;
    rows += other.rows;
    const auto left = microseconds_between(now, other.due);
    // Slots share what is before it; its own run is on one of them.
    const auto alone_us = times_.run_time(times_.bucket_for(other.rows)).high_us * (options_.slots - 1);
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
Request* Scheduler::crowding_out(const Request& request) const {
  const auto least = std::find_if(classes_.begin(), classes_.end(), [](const Class& c) { return c.size > 0; });
  const auto band = least - classes_.begin();
  if (fifo() || least == classes_.end() || band > band_of(request)) return nullptr;
  const auto& [name, most] =
      *std::max_element(least->tenants.begin(), least->tenants.end(),
                        [](const auto& a, const auto& b) { return a.second.queue.size() < b.second.queue.size(); });
  if (band == band_of(request)) {
    const auto own = least->tenants.find(payer_of(request));
    if (most.queue.size() <= 1 + (own == least->tenants.end() ? 0 : own->second.queue.size())) return nullptr;
  }
  return most.queue.rbegin()->second;
}

bool Scheduler::may_probe(TimePoint now, bool idle) const noexcept {
  return idle && empty() && microseconds_between(last_start_, now) > options_.probe_after_us;
}

Refusal Scheduler::check_alone(Request& request, TimePoint now, std::int64_t& predicted_us) {
  request.due = request.deadline;  // a bound is never below one run
  predicted_us = times_.run_time(times_.bucket_for(request.rows)).high_us;
  if (!fifo() && now + std::chrono::microseconds(predicted_us) > request.deadline && !may_probe(now, true)) {
    return refuse(request, Reason::kDeadlineUnmeetable, predicted_us, now);
  }
  last_start_ = now;
  return {};
}

Admission Scheduler::offer(Request& request, TimePoint now, std::span<const std::int64_t> free_in_us) {
  Admission admission;
  request.due = due_of(request);
  Request* leaving = queued_frame_of(request);
  if (leaving != nullptr && leaving->sequence >= request.sequence) {
    admission.refusal = refuse(request, Reason::kSuperseded, 0, now);
    return admission;
  }
  const auto running_us = std::accumulate(free_in_us.begin(), free_in_us.end(), std::int64_t{0});
  const auto ahead_us = times_.cautious_backlog_us(rows_ahead(request, leaving));
  // What runs now does not delay it while a slot is idle and nobody is before it.
  const bool waits = ahead_us > 0 || free_in_us.size() >= static_cast<std::size_t>(options_.slots);
  const auto own = times_.run_time(times_.bucket_for(request.rows));
  admission.predicted_us = (waits ? share_us(running_us + ahead_us) : 0) + own.high_us;
  Request* crowd = nullptr;
  if (is_full_for(request, leaving)) {
    if (leaving == nullptr) crowd = crowding_out(request);
    if (crowd == nullptr || is_full_for(request, crowd)) {
      admission.refusal = refuse(request, Reason::kQueueFull, admission.predicted_us, now);
      return admission;
    }
  }
  request.probe_ = request.deadline > now && may_probe(now, free_in_us.empty());
  const auto promised_us = admission.predicted_us + (waits ? margin_us_ : 0);
  if (!fifo() && !request.probe_ &&
      (now + std::chrono::microseconds(promised_us) > request.due ||
       breaks_a_promise(request, leaving, running_us + ahead_us, now))) {
    admission.refusal = refuse(request, Reason::kDeadlineUnmeetable, promised_us, now);
    return admission;
  }
  if (leaving != nullptr) {
    erase(*leaving);
    admission.superseded = leaving;
  }
  if (crowd != nullptr) {
    admission.displacement = refuse(*crowd, Reason::kQueueFull, crowd->predicted_us, now);
    admission.displaced = crowd;
    erase(*crowd);
  }
  push(request);
  return admission;
}

void Scheduler::push(Request& request) {
  request.ticket_ = next_ticket_++;
  request.queued_in_ = this;
  auto& band = classes_[band_of(request)];
  auto it = band.tenants.find(payer_of(request));
  if (it == band.tenants.end()) {
    if (band.tenants.size() >= kTenantsMax) {
      std::erase_if(band.tenants, [](const auto& entry) { return entry.second.queue.empty(); });
    }
    it = band.tenants.emplace(std::string(payer_of(request)), Tenant{{}, quantum_us(), 0}).first;
  }
  it->second.queue.emplace(key_of(request), &request);
  it->second.rows += request.rows;
  band.rows += request.rows;
  if (band.size++ == 0) band.passed_since = request.arrival;
  ++size_;
  rows_ += request.rows;
  size_bytes_ += request.size_bytes;
  deadlines_.emplace(request.deadline, &request);
  if (!request.stream_id.empty()) frames_[request.stream_key()] = &request;
}

void Scheduler::erase(Request& request) {
  auto& band = classes_[band_of(request)];
  auto& tenant = tenant_of(request);
  tenant.queue.erase(key_of(request));
  tenant.rows -= request.rows;
  band.rows -= request.rows;
  --band.size;
  --size_;
  rows_ -= request.rows;
  size_bytes_ -= request.size_bytes;
  request.queued_in_ = nullptr;
  auto [it, end] = deadlines_.equal_range(request.deadline);
  deadlines_.erase(std::find_if(it, end, [&](const auto& entry) { return entry.second == &request; }));
  if (request.stream_id.empty()) return;
  const auto frame = frames_.find(request.stream_key());
  if (frame != frames_.end() && frame->second == &request) frames_.erase(frame);
}

bool Scheduler::remove(Request& request) {
  if (request.queued_in_ != this) return false;
  erase(request);
  return true;
}

Purged Scheduler::purge(TimePoint now) {
  Purged purged;
  for (const auto& [deadline, request] : deadlines_) {
    if (request->cancelled.load(std::memory_order_relaxed)) {
      purged.cancelled.push_back(request);
    } else if (fifo()) {
      continue;
    } else if (deadline <= now) {
      purged.expired.push_back(request);
    } else if (!request->probe_ &&
               microseconds_between(now, deadline) < times_.run_time(times_.bucket_for(request->rows)).median_us) {
      purged.hopeless.push_back(request);
    }
  }
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
  for (const auto& [name, tenant] : band.tenants) {
    if (tenant.queue.empty() || tenant.credit_us <= 0) continue;
    Request* candidate = tenant.queue.begin()->second;
    if (first == nullptr || key_of(*candidate) < key_of(*first)) first = candidate;
  }
  return first;
}

// Gives every tenant as many quanta as the least indebted waiting one needs; nobody saves up more than one.
void Scheduler::start_round(Tenants& tenants, std::int64_t quantum_us) {
  auto most = std::numeric_limits<std::int64_t>::min();
  for (const auto& [name, tenant] : tenants) {
    if (!tenant.queue.empty()) most = std::max(most, tenant.credit_us);
  }
  const auto lift = (-most / quantum_us + 1) * quantum_us;
  for (auto& [name, tenant] : tenants) tenant.credit_us = std::min(quantum_us, tenant.credit_us + lift);
}

// Who may share a batch with `first`, in the order in which they would run, cut where the largest bucket is full.
std::vector<Request*> Scheduler::companions(Request& first) const {
  std::vector<Request*> joining{&first};
  const auto largest = std::max(first.rows, times_.rows(largest_bucket_));
  auto rows = first.rows;
  for (int c = kClasses - 1; c >= 0 && rows < largest; --c) {
    std::vector<std::pair<bool, Request*>> band;  // in debt, request
    for (const auto& [name, tenant] : classes_[c].tenants) {
      std::int64_t seen = 0;
      for (const auto& [key, request] : tenant.queue) {
        if (seen >= largest) break;
        if (request == &first || !same_shapes(first, *request)) continue;
        band.emplace_back(tenant.credit_us <= 0, request);
        seen += request->rows;
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
    tenant_of(*request).credit_us -= std::max<std::int64_t>(1, run_us * request->rows / rows);
    classes_[band_of(*request)].passed_since = now;
    erase(*request);
  }
  return dispatch;
}

std::vector<Request*> Scheduler::drain() {
  std::vector<Request*> all;
  all.reserve(size_);
  for (const auto& [deadline, request] : deadlines_) all.push_back(request);
  for (auto* request : all) erase(*request);
  return all;
}

void Scheduler::set_bound_us(std::int64_t us) {
  if (us == options_.bound_us) return;
  options_.bound_us = us;
  for (const auto& [deadline, request] : deadlines_) {
    auto& queue = tenant_of(*request).queue;
    auto node = queue.extract(key_of(*request));
    request->due = due_of(*request);
    node.key() = key_of(*request);
    queue.insert(std::move(node));
  }
}

TimePoint Scheduler::next_deadline() const noexcept {
  return deadlines_.empty() || fifo() ? TimePoint::max() : deadlines_.begin()->first;
}

}  // namespace starling
