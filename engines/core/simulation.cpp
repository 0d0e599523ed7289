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
        outcomes_(requests.size()) {
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

  std::vector<SimulatedOutcome> run() {
    std::size_t next = 0;
    while (next < requests_.size() || !idle() || !scheduler_.empty()) {
      auto now = TimePoint::max();
      if (next < requests_.size()) now = std::min(now, requests_[next]->arrival);
      for (const auto& slot : slots_) now = std::min(now, slot.requests.empty() ? TimePoint::max() : slot.end);
      now = std::min({now, wake_, scheduler_.next_deadline()});
      now_ = std::max(now_, now);
      finish_runs();
      for (; next < requests_.size() && requests_[next]->arrival <= now_; ++next) offer(*requests_[next]);
      expire();
      dispatch();
    }
    return std::move(outcomes_);
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
    return outcomes_[static_cast<const VirtualRequest&>(request).index];
  }
  bool idle() const {
    return std::all_of(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.requests.empty(); });
  }

  void end(const Request& request, Reason reason) {
    outcome(request).reason = reason;
    outcome(request).end_us = us(now_);
  }

  void offer(VirtualRequest& request) {
    // As a model does before its scheduler hears of a request: what fits into no batch would wait forever.
    if (request.rows < 1 || request.rows > times_.rows(times_.size() - 1)) return end(request, Reason::kInvalidInput);
    std::vector<std::int64_t> free_in;
    for (const auto& slot : slots_) {
      if (slot.requests.empty()) continue;
      // The scheduler knows the estimate, not the truth.
      const auto left = times_.run_time(slot.bucket).median_us - microseconds_between(slot.start, now_);
      free_in.push_back(std::max<std::int64_t>(0, left));
    }
    const auto admission = scheduler_.offer(request, now_, free_in);
    outcome(request).predicted_us = admission.predicted_us;
    if (admission.superseded != nullptr) end(*admission.superseded, Reason::kSuperseded);
    if (admission.displaced != nullptr) end(*admission.displaced, Reason::kQueueFull);
    if (!admission.refusal.ok()) end(request, admission.refusal.reason);
    // A batch may start between two arrivals of the same moment, as it would in the model.
    dispatch();
  }

  void expire() {
    const auto purged = scheduler_.purge(now_);
    for (const Request* request : purged.expired) end(*request, Reason::kDeadlinePassed);
    for (const Request* request : purged.hopeless) end(*request, Reason::kDeadlineUnmeetable);
  }

  void dispatch() {
    wake_ = TimePoint::max();
    for (auto& slot : slots_) {
      if (!slot.requests.empty()) continue;
      expire();
      auto next = scheduler_.next(now_);
      wake_ = std::min(wake_, next.wake);
      if (next.requests.empty()) return;
      const double stretch = 1 + options_.noise * std::uniform_real_distribution<double>(0, 1)(rng_);
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
      times_.observe(slot.bucket, microseconds_between(slot.start, slot.end));
      for (const Request* request : slot.requests) outcome(*request).end_us = us(slot.end);
      slot.requests.clear();
    }
  }

  const SimulationOptions& options_;
  ExecutionTime times_;
  Scheduler scheduler_;
  std::mt19937_64 rng_;
  std::vector<Slot> slots_;
  std::vector<std::unique_ptr<VirtualRequest>> requests_;
  std::vector<SimulatedOutcome> outcomes_;
  TimePoint now_;
  TimePoint wake_ = TimePoint::max();
};

}  // namespace

std::vector<SimulatedOutcome> simulate(const std::vector<SimulatedRequest>& requests,
                                       const SimulationOptions& options) {
  return Simulation(requests, options).run();
}

}  // namespace starling
