#include "orca.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>

#include "wire.h"

namespace starling::predict {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr auto kEvery = milliseconds(100);
constexpr auto kWindow = std::chrono::seconds(1);

// Of xds.data.orca.v3.OrcaLoadReport.
enum Field : std::uint32_t { kCpu = 1, kMemory = 2, kRps = 6, kEps = 7, kNamed = 8, kUtilization = 9 };

// What a caller did, or asked wrongly, says nothing about the node.
constexpr Reason kFailures[] = {Reason::kQueueFull, Reason::kDeadlinePassed, Reason::kDeadlineUnmeetable,
                                Reason::kEngineFailed, Reason::kSequencesFull};

std::uint64_t read_cpu_us() {
  rusage used{};
  getrusage(RUSAGE_SELF, &used);
  const auto us = [](const timeval& time) {
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000 + static_cast<std::uint64_t>(time.tv_usec);
  };
  return us(used.ru_utime) + us(used.ru_stime);
}

double count_cores() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  return sched_getaffinity(0, sizeof cores, &cores) == 0 ? std::max(1, CPU_COUNT(&cores)) : 1;
}

double read_memory_share() {
  std::uint64_t pages = 0;
  std::uint64_t resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  const auto all = sysconf(_SC_PHYS_PAGES);
  return all > 0 ? static_cast<double>(resident) / static_cast<double>(all) : 0.0;
}

std::uint64_t since(std::uint64_t before, std::uint64_t now) { return now > before ? now - before : 0; }

}  // namespace

std::string encode(const OrcaReport& report) {
  wire::Writer out;
  out.real(kCpu, report.cpu_utilization);
  out.real(kMemory, report.mem_utilization);
  out.real(kRps, report.rps);
  out.real(kEps, report.eps);
  for (const auto& [metric, value] : report.named_metrics) {
    wire::Writer entry;
    entry.text(1, metric);
    entry.real(2, value);
    out.message(kNamed, entry);
  }
  out.real(kUtilization, report.utilization);
  return out.str();
}

OrcaCounters count_for_orca(const std::vector<std::shared_ptr<Model>>& models) {
  OrcaCounters out;
  for (const auto& model : models) {
    OrcaCounters::Slots slots{model->id(), 0, model->engine().slots()};
    for (const auto& bucket : model->buckets()) slots.busy_us += bucket->served_us.load(std::memory_order_relaxed);
    out.models.push_back(slots);
    const auto& stats = model->stats();
    for (const auto& reason : stats.finished) out.finished += reason.load(std::memory_order_relaxed);
    for (const auto reason : kFailures) {
      out.failed += stats.finished[static_cast<std::size_t>(reason)].load(std::memory_order_relaxed);
    }
    out.answered += stats.finished[static_cast<std::size_t>(Reason::kNone)].load(std::memory_order_relaxed);
    out.queue_us += stats.queue.sum_us();
    out.compute_us += stats.compute.sum_us();
    out.queued += model->queued();
  }
  out.cpu_us = read_cpu_us();
  out.cores = count_cores();
  out.mem_utilization = read_memory_share();
  return out;
}

OrcaReport compare(const OrcaCounters& before, const OrcaCounters& now, microseconds window) {
  OrcaReport report;
  report.mem_utilization = now.mem_utilization;
  report.named_metrics = {{"queued", static_cast<double>(now.queued)}};
  if (window <= microseconds::zero()) return report;
  const auto us = static_cast<double>(window.count());
  for (const auto& model : now.models) {
    const auto old = std::find_if(before.models.begin(), before.models.end(),
                                  [&](const auto& one) { return one.model_id == model.model_id; });
    const auto busy = static_cast<double>(since(old == before.models.end() ? 0 : old->busy_us, model.busy_us));
    report.utilization = std::max(report.utilization, busy / (us * std::max(1, model.count)));
  }
  // A model that was unloaded takes its counts along; the sums then count from nothing.
  report.rps = static_cast<double>(since(before.finished, now.finished)) * 1e6 / us;
  report.eps = static_cast<double>(since(before.failed, now.failed)) * 1e6 / us;
  report.cpu_utilization = std::min(1.0, static_cast<double>(since(before.cpu_us, now.cpu_us)) / (us * now.cores));
  if (const auto answered = since(before.answered, now.answered); answered > 0) {
    const auto mean = [&](std::uint64_t from, std::uint64_t to) {
      return static_cast<double>(since(from, to)) / static_cast<double>(answered);
    };
    report.named_metrics.emplace_back("queue_us", mean(before.queue_us, now.queue_us));
    report.named_metrics.emplace_back("compute_us", mean(before.compute_us, now.compute_us));
  }
  return report;
}

std::shared_ptr<const std::string> OrcaMeter::report(TimePoint now) {
  const std::lock_guard lock(mutex_);
  if (!readings_.empty() && now - readings_.back().first < kEvery) return current_;
  readings_.emplace_back(now, count_());
  // One reading from before the window stays, so that it is never shorter than that once there are enough.
  while (readings_.size() > 2 && now - readings_[1].first >= kWindow) readings_.pop_front();
  const auto& [since_when, before] = readings_.front();
  const auto window = std::chrono::duration_cast<microseconds>(now - since_when);
  current_ = std::make_shared<const std::string>(encode(compare(before, readings_.back().second, window)));
  return current_;
}

}  // namespace starling::predict
