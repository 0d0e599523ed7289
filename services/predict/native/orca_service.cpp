#include "orca_service.h"

#include <algorithm>
#include <optional>

#include "refusal.h"
#include "status.h"
#include "transport/event_loop.h"

namespace starling::predict {
namespace {

// Of google.protobuf.Duration.
constexpr std::uint64_t kSecondsMax = 315'576'000'000;
constexpr std::uint64_t kNanosMax = 999'999'999;
constexpr std::int64_t kRetryUs = 1'000'000;

// A Duration that is not negative, as a pause between reports; nothing when it is none.
std::optional<Clock::duration> parse_interval(wire::Reader& reader) {
  std::uint64_t seconds = 0;
  std::uint64_t nanos = 0;
  std::uint64_t outer = 0;
  if (!reader.enter(outer)) return {};
  while (reader.more()) {
    wire::Tag tag;
    if (!reader.tag(tag)) return {};
    const bool known = tag.type == wire::Type::kVarint && (tag.field == 1 || tag.field == 2);
    if (!(known ? reader.varint(tag.field == 1 ? seconds : nanos) : reader.skip(tag.type))) return {};
  }
  // A negative one reads as more than any maximum.
  if (reader.failed() || seconds > kSecondsMax || nanos > kNanosMax) return {};
  reader.leave(outer);
  if (std::chrono::seconds(seconds) >= OrcaService::kIntervalMax) return OrcaService::kIntervalMax;
  const auto asked = std::chrono::seconds(seconds) + std::chrono::nanoseconds(nanos);
  return std::max<Clock::duration>(asked, OrcaService::kIntervalMin);
}

// OrcaLoadReportRequest: how often. Costs of requests, which it may name, are not measured here.
std::optional<Clock::duration> parse(const Spans& message) {
  std::optional<Clock::duration> interval = OrcaService::kIntervalMin;
  wire::Reader reader(message);
  while (reader.more()) {
    wire::Tag tag;
    if (!reader.tag(tag)) return {};
    if (tag.field == 1 && tag.type == wire::Type::kBytes) {
      interval = parse_interval(reader);
      if (!interval) return {};
    } else if (!reader.skip(tag.type)) {
      return {};
    }
  }
  return reader.failed() ? std::nullopt : interval;
}

transport::Ending to_ending(const Status& status) {
  const auto code = canonical_code(status.reason);
  return {code, clip_message(status.message), encode_details(status, code, {})};
}

}  // namespace

class OrcaService::Stream final : public transport::Call {
 public:
  explicit Stream(OrcaService& service) : service_(service), timer_([this] { report(); }) {}

  ~Stream() override { loop().remove_timer({due_, &timer_}); }

  void on_open() override {
    const std::lock_guard lock(service_.mutex_);
    if (service_.closed_) return end_locked(service_.draining());
    if (service_.streams_.size() >= kStreamsMax) return end_locked(service_.full());
    service_.streams_.insert(this);
  }

  void on_message(transport::Message&& message) override {
    const auto interval = parse(message.spans());
    if (!interval || asked_) {
      const std::lock_guard lock(service_.mutex_);
      return end_locked({Reason::kInvalidInput,
                         asked_ ? "the stream has a second message; send one OrcaLoadReportRequest"
                                : "the message is no OrcaLoadReportRequest with a report_interval of 0 s or more; "
                                  "send one",
                         0,
                         {{"field", "report_interval"}}});
    }
    asked_ = true;
    interval_ = *interval;
    report();
  }

  void on_half_close() override {
    if (asked_) return;
    const std::lock_guard lock(service_.mutex_);
    end_locked({Reason::kInvalidInput, "the stream has no message; send an OrcaLoadReportRequest", 0, {}});
  }

  void on_cancel() override {
    const std::lock_guard lock(service_.mutex_);
    end_locked({});
  }

  // From any thread.
  void end_locked(const Status& status) {
    service_.streams_.erase(this);
    if (!std::exchange(finished_, true)) finish(status.ok() ? transport::Ending{} : to_ending(status));
  }

 private:
  void report() {
    // A caller that does not read gets the newest report once it does, not all that it has missed.
    if (unsent() == 0) {
      wire::Writer message;
      message.raw(*service_.meter_.report(Clock::now()));
      const std::lock_guard lock(service_.mutex_);
      if (finished_) return;
      send(std::move(message));
    }
    due_ = Clock::now() + interval_;
    loop().add_timer({due_, &timer_});
  }

  // Guarded by the service's mutex: finished_. All else is the loop's.
  OrcaService& service_;
  std::function<void()> timer_;
  TimePoint due_{};
  Clock::duration interval_{};
  bool asked_ = false;
  bool finished_ = false;
};

Status OrcaService::draining() const {
  return {
      Reason::kDraining, "node " + node_ + " is draining; it reports its load no more", kRetryUs, {{"node", node_}}};
}

Status OrcaService::full() const {
  return {Reason::kQueueFull,
          "node " + node_ + " has " + std::to_string(kStreamsMax) + " streams of load reports, the most; retry later",
          kRetryUs,
          {{"node", node_}}};
}

void OrcaService::add_methods(transport::Methods& methods) {
  methods.by_name["/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"] = {
      [this](transport::CallHead&&) { return std::make_unique<Stream>(*this); }, 1};
}

void OrcaService::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  while (!streams_.empty()) (*streams_.begin())->end_locked(draining());
}

}  // namespace starling::predict
