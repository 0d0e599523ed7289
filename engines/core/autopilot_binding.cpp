#include "autopilot_binding.h"

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "autopilot_fields.h"
#include "status.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace starling {
namespace {

template <class Value>
constexpr bool kHasFields = requires(Value& value) { each_field(value, [](const char*, auto&) {}); };

template <class Value>
nb::dict write(const Value& value);

template <class Value>
nb::object write_any(const Value& value) {
  if constexpr (kHasFields<const Value>) {
    return write(value);
  } else {
    return nb::cast(value);
  }
}

nb::object write_any(const std::vector<RunTime>& values) {
  nb::list out;
  for (const auto& value : values) out.append(write(value));
  return out;
}

template <class Value>
nb::dict write(const Value& value) {
  nb::dict out;
  each_field(value, [&out](const char* name, const auto& member) { out[name] = write_any(member); });
  return out;
}

[[noreturn]] void refuse(const std::string& path, const char* expected) {
  throw Error(Reason::kInvalidInput, "`" + path + "` is missing or no " + expected + "; is this an autopilot's log?");
}

template <class Value>
void read(nb::handle from, Value& value, const std::string& path);

template <class Value>
void read_any(nb::handle from, Value& value, const std::string& path) {
  if constexpr (kHasFields<Value>) {
    read(from, value, path);
  } else if (!nb::try_cast<Value>(from, value)) {
    refuse(path, "number of the right kind");
  }
}

void read_any(nb::handle from, std::vector<RunTime>& values, const std::string& path) {
  if (!nb::isinstance<nb::list>(from)) refuse(path, "list");
  for (const auto entry : nb::borrow<nb::list>(from)) read(entry, values.emplace_back(), path);
}

template <class Value>
void read(nb::handle from, Value& value, const std::string& path) {
  if (!nb::isinstance<nb::dict>(from)) refuse(path, "object");
  const auto fields = nb::borrow<nb::dict>(from);
  each_field(value, [&](const char* name, auto& member) {
    const auto inner = path + "." + name;
    if (!fields.contains(name)) refuse(inner, "value");
    read_any(fields[name], member, inner);
  });
}

void check(const QueueSetting& setting, std::size_t buckets, const std::string& path) {
  const bool in_range = setting.largest_bucket >= 0 && setting.largest_bucket < static_cast<std::int64_t>(buckets);
  if (!in_range || setting.slots < 1 || setting.batch_delay_us < 0 || setting.bound_us < 0) {
    refuse(path, "setting of this model");
  }
}

nb::dict decision_dict(const AutopilotDecision& decision) {
  nb::dict out;
  out["setting"] = write(decision.setting);
  out["reason"] = std::string(name(decision.reason));
  out["text"] = decision.text;
  return out;
}

nb::tuple replay(nb::handle policy_dict, nb::handle state_dict, nb::handle seen_dict) {
  AutopilotPolicy policy;
  AutopilotState state;
  AutopilotObservation seen;
  read(policy_dict, policy, "policy");
  read(state_dict, state, "before");
  read(seen_dict, seen, "seen");
  const auto buckets = policy.bucket_rows.size();
  if (buckets == 0 || seen.run_times.size() != buckets || policy.p99_us < 1) refuse("policy", "policy of this model");
  if (std::any_of(policy.bucket_rows.begin(), policy.bucket_rows.end(), [](auto rows) { return rows < 1; })) {
    refuse("policy.bucket_rows", "list of sizes >= 1");
  }
  check(policy.most, buckets, "policy.most");
  check(seen.applied, buckets, "seen.applied");
  const auto decision = decide(policy, state, seen);
  return nb::make_tuple(decision_dict(decision), write(state));
}

}  // namespace

nb::dict to_dict(const PilotRecord& record) {
  nb::dict out;
  out["number"] = record.number;
  out["seen"] = write(record.seen);
  out["before"] = write(record.before);
  out["decision"] = decision_dict(record.decision);
  return out;
}

nb::dict to_dict(const AutopilotPolicy& policy) { return write(policy); }
nb::dict to_dict(const QueueSetting& setting) { return write(setting); }

nb::dict to_dict(const Pilot& pilot, const QueueSetting& applied) {
  const auto status = pilot.status();
  const auto& last = status.last;
  const bool any = last.number > 0;
  nb::dict changes;
  for (int i = 0; i < kAutopilotReasonCount; ++i) {
    const auto n = status.changes[static_cast<std::size_t>(i)];
    if (n != 0) changes[nb::str(name(static_cast<AutopilotReason>(i)).data())] = n;
  }
  nb::dict out;
  out["mode"] = std::string(name(pilot.mode()));
  out["slo_p99_us"] = pilot.policy().p99_us;
  out["slo_miss_rate"] = pilot.policy().miss_rate;
  out["bucket_rows"] = pilot.policy().bucket_rows;
  out["applied"] = write(applied);
  out["advised"] = write(any ? last.decision.setting : applied);
  out["reason"] = any ? std::string(name(last.decision.reason)) : std::string();
  out["text"] = last.decision.text;
  out["answered"] = last.seen.answered;
  out["p99_us"] = last.seen.p99_us;
  out["missed"] = last.seen.late + last.seen.refused;
  out["demand"] = last.seen.answered + last.seen.refused;
  out["changes"] = changes;
  return out;
}

AutopilotMode autopilot_mode(const std::string& text) {
  for (const auto mode : {AutopilotMode::kOff, AutopilotMode::kAdvise, AutopilotMode::kAct}) {
    if (text == name(mode)) return mode;
  }
  throw Error(Reason::kInvalidConfig, "autopilot \"" + text + "\" is unknown; use \"off\", \"advise\" or \"act\"");
}

std::string_view name(AutopilotMode mode) noexcept {
  constexpr std::string_view kNames[] = {"off", "advise", "act"};
  return kNames[static_cast<std::size_t>(mode)];
}

void bind_autopilot(nb::module_& m) {
  m.def("autopilot_decide", &replay, "policy"_a, "before"_a, "seen"_a,
        nb::sig("def autopilot_decide(policy: dict[str, typing.Any], before: dict[str, typing.Any], "
                "seen: dict[str, typing.Any]) -> tuple[dict[str, typing.Any], dict[str, typing.Any]]"),
        "Runs one step of the controller; returns its decision and the state after it.\n\n"
        "The dictionaries are those of a record; raises InvalidInput when one is not.");
}

}  // namespace starling
