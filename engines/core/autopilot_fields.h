// The autopilot's values field by field, for whoever writes them down and reads them back.
#pragma once

#include <concepts>

#include "autopilot.h"

namespace starling {

// Calls `field(name, reference)` for each member, in order.
template <class Value, class Field>
void each_field(Value& value, const Field& field)
  requires std::same_as<std::remove_const_t<Value>, QueueSetting>
{
  field("batch_delay_us", value.batch_delay_us);
  field("largest_bucket", value.largest_bucket);
  field("slots", value.slots);
  field("bound_us", value.bound_us);
}

template <class Value, class Field>
void each_field(Value& value, const Field& field)
  requires std::same_as<std::remove_const_t<Value>, AutopilotPolicy>
{
  field("p99_us", value.p99_us);
  field("miss_rate", value.miss_rate);
  field("bucket_rows", value.bucket_rows);
  field("most", value.most);
}

template <class Value, class Field>
void each_field(Value& value, const Field& field)
  requires std::same_as<std::remove_const_t<Value>, RunTime>
{
  field("median_us", value.median_us);
  field("high_us", value.high_us);
}

template <class Value, class Field>
void each_field(Value& value, const Field& field)
  requires std::same_as<std::remove_const_t<Value>, AutopilotObservation>
{
  field("at_us", value.at_us);
  field("window_us", value.window_us);
  field("applied", value.applied);
  field("answered", value.answered);
  field("late", value.late);
  field("refused", value.refused);
  field("p99_us", value.p99_us);
  field("fresh_p99_us", value.fresh_p99_us);
  field("rows", value.rows);
  field("runs", value.runs);
  field("busy_us", value.busy_us);
  field("queued", value.queued);
  field("wait_us", value.wait_us);
  field("run_times", value.run_times);
}

template <class Value, class Field>
void each_field(Value& value, const Field& field)
  requires std::same_as<std::remove_const_t<Value>, AutopilotState>
{
  field("seen_us", value.seen_us);
  field("changed_us", value.changed_us);
  field("pressed_us", value.pressed_us);
  field("calm_us", value.calm_us);
  field("patience_us", value.patience_us);
  field("applied", value.applied);
  field("proposed", value.proposed);
  field("proposed_thrift", value.proposed_thrift);
  field("thrifty", value.thrifty);
  field("proposed_rate", value.proposed_rate);
  field("trial_from", value.trial_from);
  field("trial_rate", value.trial_rate);
  field("slots_useful", value.slots_useful);
  field("useful_until_us", value.useful_until_us);
  field("bucket_held_until_us", value.bucket_held_until_us);
}

}  // namespace starling
