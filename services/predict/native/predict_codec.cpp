#include "predict_codec.h"

#include <algorithm>
#include <bit>

#include "refusal.h"

namespace starling::predict {
namespace {

using wire::Reader;
using wire::Tag;
using wire::Type;
using wire::Writer;

Status malformed(const std::string& what) {
  return {Reason::kInvalidInput, "malformed PredictRequest: " + what, 0, {}};
}

Status bad_field(const char* field, const char* wanted) {
  return malformed(std::string("field `") + field + "` could not be read, wanted " + wanted +
                   "; send a message made from starling/predict/v1/predict_service.proto");
}

// What google.protobuf.Duration can hold: 10 000 years.
constexpr std::int64_t kDurationSecondsMax = 315'576'000'000;

bool parse_duration(Reader& in, std::int64_t& us) {
  std::uint64_t outer = 0;
  if (!in.enter(outer)) return false;
  std::uint64_t seconds = 0;
  std::uint64_t nanos = 0;
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return false;
    const bool known = tag.type == Type::kVarint && (tag.field == 1 || tag.field == 2);
    if (!(known ? in.varint(tag.field == 1 ? seconds : nanos) : in.skip(tag.type))) return false;
  }
  in.leave(outer);
  // nanos is an int32 of the duration's sign, below 1e9 in size; anything else is not a duration.
  const auto large = static_cast<std::int64_t>(seconds);
  const auto small = static_cast<std::int64_t>(nanos);
  if (large < -kDurationSecondsMax || large > kDurationSecondsMax) return false;
  if (small <= -1'000'000'000 || small >= 1'000'000'000) return false;
  us = large * 1'000'000 + small / 1000;
  return !in.failed();
}

bool parse_cache_policy(Reader& in, CachePolicy& policy) {
  std::uint64_t outer = 0;
  if (!in.enter(outer)) return false;
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return false;
    if (tag.field == 1 && tag.type == Type::kBytes) {
      if (!parse_duration(in, policy.staleness_max_us)) return false;
    } else if (tag.field == 2 && tag.type == Type::kFixed32) {
      std::uint32_t bits = 0;
      if (!in.fixed32(bits)) return false;
      policy.similarity_min = static_cast<double>(std::bit_cast<float>(bits));
    } else if (!in.skip(tag.type)) {
      return false;
    }
  }
  if (in.failed()) return false;
  in.leave(outer);
  return policy.staleness_max_us > 0 && policy.similarity_min > 0 && policy.similarity_min <= 1;
}

bool parse_alternative(Reader& in, Alternative& out) {
  std::uint64_t outer = 0;
  if (!in.enter(outer)) return false;
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return false;
    if (tag.type != Type::kBytes || tag.field < 1 || tag.field > 3) {
      if (!in.skip(tag.type)) return false;
      continue;
    }
    out = {static_cast<Alternative::Kind>(tag.field), {}, {}};  // of several choices the last one counts
    if (tag.field == 1 && !in.text(out.model_name, kNameMax)) return false;
    if (tag.field == 2 && !parse_cache_policy(in, out.cache)) return false;
    if (tag.field == 3) {
      out.cache.similarity_min = -1;
      if (!parse_duration(in, out.cache.staleness_max_us) || out.cache.staleness_max_us <= 0) return false;
    }
  }
  if (in.failed()) return false;
  in.leave(outer);
  return out.kind != Alternative::Kind::kNone && (out.kind != Alternative::Kind::kModel || !out.model_name.empty());
}

Status parse_tensor(Reader& in, InputTensor& tensor) {
  std::uint64_t outer = 0;
  if (!in.enter(outer)) return bad_field("inputs", "a Tensor no longer than the message");
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return bad_field("inputs", "a Tensor");
    std::uint64_t value = 0;
    if (tag.field == 1 && tag.type == Type::kBytes) {
      if (!in.text(tensor.name, kNameMax)) return bad_field("inputs.name", "UTF-8 of at most 256 bytes");
    } else if (tag.field == 2 && tag.type == Type::kVarint) {
      if (!in.varint(value)) return bad_field("inputs.data_type", "an integer");
      tensor.data_type = value < kDataTypeCount ? static_cast<DataType>(value) : DataType::kUnspecified;
    } else if (tag.field == 3) {
      if (!in.integers(tag.type, tensor.shape, kMaxRank)) return bad_field("inputs.shape", "at most 8 integers");
    } else if (tag.field == 4 && tag.type == Type::kBytes) {
      if (!in.bytes(tensor.data, tensor.size_bytes)) {
        return bad_field("inputs.data", "a length that the message holds");
      }
    } else if (!in.skip(tag.type)) {
      return bad_field("inputs", "a Tensor");
    }
  }
  if (in.failed()) return bad_field("inputs", "a Tensor");
  in.leave(outer);
  if (tensor.data_type == DataType::kUnspecified) {
    return {Reason::kInvalidInput,
            "input \"" + tensor.name + "\" has no known data_type; set one of DataType such as DATA_TYPE_UINT8",
            0,
            {{"input", tensor.name}}};
  }
  if (tensor.shape.empty()) {
    return {Reason::kInvalidInput,
            "input \"" + tensor.name + "\" has no shape; dimension 0 is the batch, send for instance [1, ...]",
            0,
            {{"input", tensor.name}}};
  }
  return {};
}

Status check(const RequestView& request) {
  if (request.model_name.empty()) {
    return {
        Reason::kInvalidInput, "model_name is missing; set it to a name that ModelService.ListModels returns", 0, {}};
  }
  if (request.model_version < 0) {
    return {Reason::kInvalidInput,
            "model_version is " + std::to_string(request.model_version) + ", wanted >= 1, or 0 for the highest",
            0,
            {}};
  }
  if (request.priority < 0 || request.priority > kPriorityMax) {
    return {Reason::kInvalidInput,
            "priority is " + std::to_string(request.priority) + ", wanted 0 to " + std::to_string(kPriorityMax),
            0,
            {}};
  }
  if (request.budget_us && *request.budget_us <= 0) {
    return {Reason::kInvalidInput,
            "budget is " + std::to_string(*request.budget_us) + " us, wanted more than 0, or none",
            0,
            {}};
  }
  if (request.sequence_id.empty() && (request.sequence_start || request.sequence_end)) {
    return {Reason::kInvalidInput, "sequence_start or sequence_end without sequence_id; name the sequence", 0, {}};
  }
  return {};
}

Status parse_fields(Reader& in, RequestView& out) {
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return malformed("it ends inside a field, or a field number is out of range");
    std::uint64_t value = 0;
    const bool is_bytes = tag.type == Type::kBytes;
    const bool is_varint = tag.type == Type::kVarint;
    if (tag.field == 1 && is_bytes) {
      if (!in.text(out.model_name, kNameMax)) return bad_field("model_name", "UTF-8 of at most 256 bytes");
    } else if (tag.field == 2 && is_varint) {
      if (!in.varint(value)) return bad_field("model_version", "an integer");
      out.model_version = static_cast<std::int64_t>(value);
    } else if (tag.field == 3 && is_bytes) {
      if (!in.text(out.request_id, kIdMax)) return bad_field("request_id", "UTF-8 of at most 128 bytes");
    } else if (tag.field == 4 && is_bytes) {
      if (out.inputs.size() == kTensorsMax) return bad_field("inputs", "at most 64 tensors");
      out.inputs.emplace_back();
      if (auto status = parse_tensor(in, out.inputs.back()); !status.ok()) return status;
    } else if (tag.field == 5 && is_bytes) {
      if (out.outputs.size() == kTensorsMax) return bad_field("output_names", "at most 64 names");
      if (!in.text(out.outputs.emplace_back().name, kNameMax)) {
        return bad_field("output_names", "UTF-8 of at most 256 bytes");
      }
    } else if (tag.field == 6 && is_bytes) {
      if (!in.text(out.stream_id, kIdMax)) return bad_field("stream_id", "UTF-8 of at most 128 bytes");
    } else if (tag.field == 7 && is_varint) {
      if (!in.varint(value)) return bad_field("sequence", "an integer");
      out.sequence = static_cast<std::int64_t>(value);
    } else if (tag.field == 8 && is_varint) {
      if (!in.varint(value)) return bad_field("priority", "an integer");
      out.priority = static_cast<std::int32_t>(value);
    } else if (tag.field == 9 && is_bytes) {
      std::int64_t us = 0;
      if (!parse_duration(in, us)) return bad_field("budget", "a Duration");
      out.budget_us = us;
    } else if (tag.field == 10 && is_bytes) {
      out.cache.emplace();
      if (!parse_cache_policy(in, *out.cache)) {
        return bad_field("cache", "max_staleness above 0 and min_similarity in (0, 1]");
      }
    } else if (tag.field == 11 && is_bytes) {
      if (out.allow.size() == kAlternativesMax) return bad_field("allow", "at most 4 alternatives");
      if (!parse_alternative(in, out.allow.emplace_back())) {
        return bad_field("allow", "one of model_name, cached and last_value, the last two with a time above 0");
      }
    } else if (tag.field == 12 && is_bytes) {
      if (!in.text(out.sequence_id, kIdMax)) return bad_field("sequence_id", "UTF-8 of at most 128 bytes");
    } else if ((tag.field == 13 || tag.field == 14) && is_varint) {
      if (!in.varint(value)) return bad_field(tag.field == 13 ? "sequence_start" : "sequence_end", "true or false");
      (tag.field == 13 ? out.sequence_start : out.sequence_end) = value != 0;
    } else if (!in.skip(tag.type)) {
      return malformed("field " + std::to_string(tag.field) + " runs over the end of the message");
    }
  }
  if (in.failed()) return malformed("it ends inside a field");
  return check(out);
}

bool is_wanted(const RequestView& request, const std::string& name) {
  return request.outputs.empty() || std::any_of(request.outputs.begin(), request.outputs.end(),
                                                [&](const WantedOutput& wanted) { return wanted.name == name; });
}

}  // namespace

Status PredictCodec::parse(const Spans& message, RequestView& out) const {
  Reader in(message);
  return parse_fields(in, out);
}

Status PredictCodec::parse_streamed(const Spans& message, RequestView& out) const {
  Reader in(message);
  bool seen = false;
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return malformed("it ends inside a field, or a field number is out of range");
    std::uint64_t outer = 0;
    if (tag.field == 1 && tag.type == Type::kBytes) {
      if (seen) return malformed("field `request` came twice; send one request a message");
      seen = true;
      if (!in.enter(outer)) return bad_field("request", "a PredictRequest no longer than the message");
      if (auto status = parse_fields(in, out); !status.ok()) return status;
      in.leave(outer);
    } else if (!in.skip(tag.type)) {
      return malformed("field " + std::to_string(tag.field) + " runs over the end of the message");
    }
  }
  if (!seen) return malformed("field `request` is missing");
  return {};
}

Writer PredictCodec::encode(const Answer& answer, const RequestView& request) const {
  Writer out;
  out.text(1, answer.model.name);
  out.varint(2, static_cast<std::uint64_t>(answer.model.version));
  out.text(3, request.request_id);
  for (const auto& output : answer.outputs) {
    if (!is_wanted(request, output.spec->name)) continue;
    Writer tensor;
    tensor.text(1, output.spec->name);
    tensor.varint(2, static_cast<std::uint64_t>(output.spec->data_type));
    tensor.packed(3, output.shape);
    tensor.bytes(4, output.buffer, output.offset, output.size);
    out.message(4, std::move(tensor));
  }
  out.text(5, answer.node);
  const auto& spent = answer.timing;
  Writer timing;
  timing.varint(1, static_cast<std::uint64_t>(std::max<std::int64_t>(0, spent.queue_us)));
  timing.varint(2, static_cast<std::uint64_t>(spent.compute_us));
  timing.varint(3, static_cast<std::uint64_t>(spent.total_us));
  timing.varint(4, static_cast<std::uint64_t>(spent.batch_size));
  timing.varint(5, static_cast<std::uint64_t>(spent.batch_wait_us));
  timing.varint(6, static_cast<std::uint64_t>(spent.predicted_us));
  timing.varint(7, static_cast<std::uint64_t>(spent.slack_us));
  out.message(6, timing);
  out.varint(7, answer.from_cache ? 1 : 0);
  out.fixed32(8, std::bit_cast<std::uint32_t>(static_cast<float>(answer.similarity)));
  out.varint(9, static_cast<std::uint64_t>(answer.staleness_ms));
  out.text(10, answer.degraded_to);
  return out;
}

Writer PredictCodec::encode_streamed(const Answer& answer, const RequestView& request) const {
  Writer out;
  out.message(1, encode(answer, request));
  return out;
}

Writer PredictCodec::encode_refusal(const Status& status, const RequestView& request) const {
  Writer error;
  error.varint(1, static_cast<std::uint64_t>(canonical_code(status.reason)));
  error.text(2, name(status.reason));
  error.text(3, clip_message(status.message));
  if (status.retry_delay_us > 0) error.message(4, encode_duration(status.retry_delay_us));
  error.text(5, request.request_id);
  write_facts(error, 6, status);
  Writer out;
  out.message(2, error);
  return out;
}

}  // namespace starling::predict
