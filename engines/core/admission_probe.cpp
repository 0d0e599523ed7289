#include "admission_probe.h"

#include <memory>
#include <string>

#include "scheduler.h"

namespace starling {
namespace {

using std::chrono::microseconds;

constexpr std::int64_t kBuckets[] = {1, 2, 4};
constexpr std::int64_t kRunUs = 20'000;
// More than a core's own caches hold.
constexpr std::size_t kOtherWorkWords = (std::size_t{4} << 20) / sizeof(std::uint64_t);

class PatientRequest final : public Request {
 public:
  void complete(Result&&) noexcept override {}  // never handed to a model
};

}  // namespace

std::vector<std::int64_t> admission_ns(const AdmissionCase& what, int runs) {
  ExecutionTime times(kBuckets);
  for (std::size_t b = 0; b < times.size(); ++b) times.observe(b, kRunUs * kBuckets[b]);
  SchedulerOptions options;
  options.bounds.requests_max = static_cast<std::size_t>(what.queued) + 1;
  Scheduler scheduler(options, times);
  const auto begin = Clock::now();
  std::vector<std::unique_ptr<PatientRequest>> waiting;
  const auto make = [&](int number, std::int64_t budget_us) {
    auto request = std::make_unique<PatientRequest>();
    request->arrival = begin;
    request->deadline = begin + microseconds(budget_us + number);
    request->tenant = std::to_string(number % what.tenants);
    return request;
  };
  const std::int64_t enough_us = kRunUs * (what.queued + 2) * 2;
  const Running busy{1, kRunUs / 2};
  for (int i = 0; i < what.queued; ++i) {
    waiting.push_back(make(i, enough_us));
    scheduler.offer(*waiting.back(), begin, busy);
  }
  std::vector<std::uint64_t> other(what.cold ? kOtherWorkWords : 0);
  std::vector<std::int64_t> spent;
  for (int i = 0; i < runs; ++i) {
    const bool too_late = i % 2 == 1;
    const auto request = make(what.queued + i, too_late ? kRunUs / 2 : enough_us);
    for (auto& word : other) ++word;
    const auto start = Clock::now();
    const auto admission = scheduler.offer(*request, begin, busy);
    spent.push_back(std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
    if (admission.refusal.ok()) scheduler.remove(*request);
  }
  return spent;
}

}  // namespace starling
