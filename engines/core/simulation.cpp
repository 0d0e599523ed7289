#include "simulation.h"

#include <algorithm>
#include <memory>
#include <random>

namespace starling {
namespace {

class VirtualRequest final : public Request {
 public:
  void complete(Result&&) noexcept override {}  // never handed to a model
  std::size_t index = 0;
};

// The time line of one model: arrivals, ends of runs, expiries and wake-ups of held-back batches, in order.
class Simulation {
 public:
  Simulation(const std::vector<SimulatedRequest>& requests, const SimulationOptions& options)
      : options_(options),
        times_(options.bucket_rows),
        scheduler_(options.scheduler, times_),
        rng_(options.seed),
        slots_(static_cast<std::size_t>(options.scheduler.slots)),
        pilot_({options.slo_p99_us,
                options.slo_miss_rate,
                options.bucket_rows,
                {options.scheduler.batch_delay_us, static_cast<std::int64_t>(options.bucket_rows.size()) - 1,
                 options.scheduler.slots, 0}},
               options.autopilot, TimePoint{}),
        setting_(pilot_.policy().most) {
    report_.outcomes.resize(requests.size());
    report_.policy = pilot_.policy();
    for (std::size_t b = 0; b < options.bucket_run_us.size(); ++b) times_.observe(b, options.bucket_run_us[b]);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      auto request = std::make_unique<VirtualRequest>();
      const auto& from = requests[i];
      request->index = i;
      request->arrival = at(from.arrival_us);
      request->deadline = at(from.deadline_us);
      request->priority = from.priority;
      request->tenant = std::to_string(from.tenant);
      request->stream_id = from.stream < 0 ? "" : std::to_string(from.stream);
      request->sequence = from.sequence;
      request->rows = from.rows;
      requests_.push_back(std::move(request));
    }
  }

  SimulationReport run() {
    std::size_t next = 0;
    while (next < requests_.size() || !idle() || !scheduler_.empty()) {
      auto now = TimePoint::max();
      if (next < requests_.size()) now = std::min(now, requests_[next]->arrival);
      for (const auto& slot : slots_) now = std::min(now, slot.requests.empty() ? TimePoint::max() : slot.end);
      now = std::min({now, wake_, scheduler_.next_deadline()});
      if (options_.autopilot != AutopilotMode::kOff) now = std::min(now, pilot_.next_due());
      now_ = std::max(now_, now);
      finish_runs();
      steer();
      for (; next < requests_.size() && requests_[next]->arrival <= now_; ++next) offer(*requests_[next]);
      expire();
      dispatch();
    }
    return std::move(report_);
  }

 private:
  struct Slot {
    std::vector<Request*> requests;
    std::size_t bucket = 0;
    TimePoint start;
    TimePoint end;
  };

  static TimePoint at(std::int64_t us) { return TimePoint{} + std::chrono::microseconds(us); }
  static std::int64_t us(TimePoint t) { return microseconds_between(TimePoint{}, t); }
  SimulatedOutcome& outcome(const Request& request) {
    return report_.outcomes[static_cast<const VirtualRequest&>(request).index];
  }
  bool idle() const {
    return std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.requests.empty(); });
  }

  void end(const Request& request, Reason reason) {
    outcome(request).reason = reason;
    outcome(request).end_us = us(now_);
    const bool refused =
        reason == Reason::kDeadlineUnmeetable || reason == Reason::kQueueFull || reason == Reason::kDeadlinePassed;
    if (refused) ++counters_.refused;
  }

  // As the model does a few times a second.
  void steer() {
    if (options_.autopilot == AutopilotMode::kOff || !pilot_.is_due(now_)) return;
    PilotView view{setting_, static_cast<std::int64_t>(scheduler_.size()), 0, {}};
    view.wait_us = times_.backlog_us(scheduler_.rows()) / setting_.slots;
    for (std::size_t b = 0; b < times_.size(); ++b) view.run_times.push_back(times_.run_time(b));
    setting_ = pilot_.step(now_, counters_, std::move(view));
    scheduler_.set_batch_delay_us(setting_.batch_delay_us);
    scheduler_.set_largest_bucket(static_cast<std::size_t>(setting_.largest_bucket));
    scheduler_.set_slots(static_cast<int>(setting_.slots));
    scheduler_.set_bound_us(setting_.bound_us);
    for (auto& record : pilot_.take_records()) report_.records.push_back(std::move(record));
  }

  int running() const {
    return static_cast<int>(
        std::count_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return !slot.requests.empty(); }));
  }

  double slowdown() const {
    double factor = 1;
    for (const auto& change : options_.slowdowns) {
      if (at(change.at_us) <= now_) factor = change.factor;
    }
    // Runs share the cores that there are, also with those that began before.
    const int cores = options_.cores > 0 ? options_.cores : static_cast<int>(slots_.size());
    return factor * std::max(1.0, static_cast<double>(running() + 1) / cores);
  }

  void offer(VirtualRequest& request) {
    // As a model does before its scheduler hears of a request: what fits into no batch would wait forever.
    if (request.rows < 1 || request.rows > times_.rows(times_.size() - 1)) return end(request, Reason::kInvalidInput);
    Running running;
    for (const auto& slot : slots_) {
      if (slot.requests.empty()) continue;
      // The scheduler knows the estimate, not the truth.
      const auto left = times_.run_time(slot.bucket).median_us - microseconds_between(slot.start, now_);
      ++running.slots;
      running.left_us += std::max<std::int64_t>(0, left);
    }
    const auto admission = scheduler_.offer(request, now_, running);
    outcome(request).predicted_us = admission.predicted_us;
    if (admission.superseded != nullptr) end(*admission.superseded, Reason::kSuperseded);
    if (admission.displaced != nullptr) end(*admission.displaced, Reason::kQueueFull);
    if (!admission.refusal.ok()) end(request, admission.refusal.reason);
    // A batch may start between two arrivals of the same moment, as it would in the model.
    dispatch();
  }

  void expire() {
    const auto purged = scheduler_.purge(now_);
    for (const auto* missed : {&purged.expired, &purged.hopeless}) {
      for (const Request* request : *missed) scheduler_.learn_miss(*request);
    }
    for (const Request* request : purged.expired) end(*request, Reason::kDeadlinePassed);
    for (const Request* request : purged.hopeless) end(*request, Reason::kDeadlineUnmeetable);
  }

  void dispatch() {
    wake_ = TimePoint::max();
    for (auto& slot : slots_) {
      if (!slot.requests.empty()) continue;
      if (running() >= setting_.slots) return;
      expire();
      auto next = scheduler_.next(now_);
      wake_ = std::min(wake_, next.wake);
      if (next.requests.empty()) return;
      const double noise = 1 + options_.noise * std::uniform_real_distribution<double>(0, 1)(rng_);
      const double stretch = noise * slowdown();
      const auto run_us = static_cast<std::int64_t>(static_cast<double>(options_.bucket_run_us[next.bucket]) * stretch);
      slot = {std::move(next.requests), next.bucket, now_, now_ + std::chrono::microseconds(run_us)};
      std::int64_t rows = 0;
      for (const Request* request : slot.requests) rows += request->rows;
      for (const Request* request : slot.requests) {
        outcome(*request).start_us = us(now_);
        outcome(*request).batch_rows = rows;
      }
    }
  }

  void finish_runs() {
    for (auto& slot : slots_) {
      if (slot.requests.empty() || slot.end > now_) continue;
      const auto run_us = microseconds_between(slot.start, slot.end);
      times_.observe(slot.bucket, run_us);
      ++counters_.runs;
      counters_.busy_us += static_cast<std::uint64_t>(run_us);
      for (const Request* request : slot.requests) {
        outcome(*request).end_us = us(slot.end);
        const auto took_us = microseconds_between(request->arrival, slot.end);
        scheduler_.learn(*request, took_us - outcome(*request).predicted_us);
        ++counters_.answered;
        if (slot.end <= request->deadline) ++counters_.met;
        counters_.rows += static_cast<std::uint64_t>(request->rows);
        pilot_.record_answer(request->arrival, took_us);
      }
      slot.requests.clear();
    }
  }

  const SimulationOptions& options_;
  ExecutionTime times_;
  Scheduler scheduler_;
  std::mt19937_64 rng_;
  std::vector<Slot> slots_;
  std::vector<std::unique_ptr<VirtualRequest>> requests_;
  Pilot pilot_;
  QueueSetting setting_;
  PilotCounters counters_;
  SimulationReport report_;
  TimePoint now_;
  TimePoint wake_ = TimePoint::max();
};

}  // namespace

SimulationReport simulate(const std::vector<SimulatedRequest>& requests, const SimulationOptions& options) {
  return Simulation(requests, options).run();
}

}  // namespace starling
