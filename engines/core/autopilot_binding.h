// The autopilot as Python sees it: dictionaries of numbers that JSON can hold.
#pragma once

#include <nanobind/nanobind.h>

#include "pilot.h"

namespace starling {

// {"number", "seen", "before", "decision": {"setting", "reason", "text"}}
nanobind::dict to_dict(const PilotRecord& record);
nanobind::dict to_dict(const AutopilotPolicy& policy);
nanobind::dict to_dict(const QueueSetting& setting);
// {"mode", "slo_p99_us", "slo_miss_rate", "bucket_rows", "applied", "advised", "reason", "text", "p99_us", "answered",
// "missed", "demand", "changes"}; what the last step saw and said, zeros and empty before the first.
nanobind::dict to_dict(const Pilot& pilot, const QueueSetting& applied);

AutopilotMode autopilot_mode(const std::string& text);
std::string_view name(AutopilotMode mode) noexcept;

// Adds `autopilot_decide`, which replays one step.
void bind_autopilot(nanobind::module_& m);

}  // namespace starling
