#include "infer_codec.h"

#include <algorithm>
#include <charconv>

#include "classification.h"
#include "infer_contents.h"
#include "refusal.h"

namespace starling::predict {
namespace {

using wire::Reader;
using wire::Tag;
using wire::Type;
using wire::Writer;

Status invalid(std::string message) { return {Reason::kInvalidInput, std::move(message), 0, {}}; }

Status malformed(const std::string& what) { return invalid("malformed ModelInferRequest: " + what); }

Status bad_field(const char* field, const char* wanted) {
  return malformed(std::string("field `") + field + "` could not be read, wanted " + wanted +
                   "; send a message made from starling/inference/open_inference.proto");
}

// An InferParameter: which of its choices is set, and to what.
struct Parameter {
  enum class Kind : std::uint8_t { kNone, kBool, kInt, kText, kDouble, kUint } kind = Kind::kNone;
  std::uint64_t number = 0;
  std::string text;
};

bool parse_parameter(const Spans& value, Parameter& out) {
  Reader in(value);
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return false;
    const bool is_number = tag.type == Type::kVarint && (tag.field == 1 || tag.field == 2 || tag.field == 5);
    if (!is_number && !(tag.field == 3 && tag.type == Type::kBytes) &&
        !(tag.field == 4 && tag.type == Type::kFixed64)) {
      if (!in.skip(tag.type)) return false;
      continue;
    }
    out = {static_cast<Parameter::Kind>(tag.field), 0, {}};  // of several choices the last one counts
    if (is_number ? !in.varint(out.number) : tag.field == 3 ? !in.text(out.text, kNameMax) : !in.skip(tag.type)) {
      return false;
    }
  }
  return !in.failed();
}

// One entry of a map of parameters; the value stays unread, because nobody may care for it.
bool parse_entry(Reader& in, std::string& key, Spans& value) {
  std::uint64_t outer = 0;
  std::uint64_t size = 0;
  if (!in.enter(outer)) return false;
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return false;
    if (tag.field == 1 && tag.type == Type::kBytes) {
      if (!in.text(key, kNameMax)) return false;
    } else if (tag.field == 2 && tag.type == Type::kBytes) {
      if (!in.bytes(value, size)) return false;
    } else if (!in.skip(tag.type)) {
      return false;
    }
  }
  if (in.failed()) return false;
  in.leave(outer);
  return true;
}

// What a parameter is for in a refusal: `timeout`, or `shared_memory_offset` of input "x".
struct Place {
  std::string key;
  std::string owner;  // empty: the request
};

Status wrong_parameter(const Place& place, const std::string& wanted) {
  return invalid("parameter `" + place.key + "`" + (place.owner.empty() ? "" : " of " + place.owner) + " wants " +
                 wanted);
}

// An integer >= 0, signed or not on the wire.
Status read_count(const Place& place, const Spans& value, std::uint64_t& out) {
  Parameter parameter;
  const bool good = parse_parameter(value, parameter) &&
                    (parameter.kind == Parameter::Kind::kInt || parameter.kind == Parameter::Kind::kUint) &&
                    parameter.number <= static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  if (!good) return wrong_parameter(place, "an int64 or uint64 from 0 to 2^63 - 1");
  out = parameter.number;
  return {};
}

Status read_flag(const Place& place, const Spans& value, bool& out) {
  Parameter parameter;
  if (!parse_parameter(value, parameter) || parameter.kind != Parameter::Kind::kBool) {
    return wrong_parameter(place, "a bool");
  }
  out = parameter.number != 0;
  return {};
}

Status read_text(const Place& place, const Spans& value, std::string& out) {
  Parameter parameter;
  if (!parse_parameter(value, parameter) || parameter.kind != Parameter::Kind::kText || parameter.text.empty()) {
    return wrong_parameter(place, "a text of 1 to 256 bytes");
  }
  out = std::move(parameter.text);
  return {};
}

// Numbers and texts name sequences alike; 0 and "" name none.
Status read_sequence_id(const Place& place, const Spans& value, std::string& out) {
  Parameter parameter;
  using Kind = Parameter::Kind;
  const bool good = parse_parameter(value, parameter) &&
                    (parameter.kind == Kind::kInt || parameter.kind == Kind::kUint || parameter.kind == Kind::kText) &&
                    parameter.text.size() <= kIdMax;
  if (!good) return wrong_parameter(place, "an int64, a uint64 or a text of at most 128 bytes");
  if (parameter.kind == Kind::kText) {
    out = std::move(parameter.text);
  } else if (parameter.number == 0) {
    out.clear();
  } else {
    const bool is_signed = parameter.kind == Kind::kInt;
    out = is_signed ? std::to_string(static_cast<std::int64_t>(parameter.number)) : std::to_string(parameter.number);
  }
  return {};
}

// Of the request as a whole. What the protocol does not reserve is for models, and none of ours has any.
Status read_request_parameter(const std::string& key, const Spans& value, RequestView& out) {
  const Place place{key, {}};
  std::uint64_t number = 0;
  if (key == "priority") {
    auto status = read_count(place, value, number);
    // Theirs: 1 is the most urgent and 0 the default. Ours: the larger, the more urgent, and 0 the default.
    constexpr auto kUrgent = static_cast<std::uint64_t>(kPriorityMax) + 1;
    out.priority = number == 0 || number > kUrgent ? 0 : static_cast<std::int32_t>(kUrgent - number);
    return status;
  }
  if (key == "timeout") {
    auto status = read_count(place, value, number);
    if (number > 0) out.budget_us = static_cast<std::int64_t>(number);
    return status;
  }
  if (key == "sequence_id") return read_sequence_id(place, value, out.sequence_id);
  if (key == "sequence_start") return read_flag(place, value, out.sequence_start);
  if (key == "sequence_end") return read_flag(place, value, out.sequence_end);
  if (key == "starling_timing") return read_flag(place, value, out.wants_timing);
  if (key == "triton_enable_empty_final_response") {
    // Every request has exactly one answer, and it says that it is the last: nothing is left to be enabled.
    bool ignored = false;
    return read_flag(place, value, ignored);
  }
  if (key.starts_with("triton_")) {
    return invalid("parameter `" + key + "` is unknown, and names with `triton_` are reserved; leave it out");
  }
  return {};
}

// The parameters of a tensor that say where its bytes are.
struct TensorParameters {
  RegionRange range;
  bool has_size = false;
  bool has_offset = false;
  std::uint64_t classes = 0;
};

Status read_tensor_parameter(const Place& place, const Spans& value, TensorParameters& out) {
  if (place.key == "shared_memory_region") return read_text(place, value, out.range.region);
  if (place.key == "shared_memory_byte_size") {
    out.has_size = true;
    return read_count(place, value, out.range.size);
  }
  if (place.key == "shared_memory_offset") {
    out.has_offset = true;
    return read_count(place, value, out.range.offset);
  }
  if (place.key == "classification") return read_count(place, value, out.classes);
  return {};
}

Status check_range(const std::string& owner, const TensorParameters& parameters) {
  const bool has_region = !parameters.range.region.empty();
  if (has_region && !parameters.has_size) {
    return invalid(owner + " lies in shared memory region \"" + parameters.range.region +
                   "\" without its size; set shared_memory_byte_size");
  }
  if (!has_region && (parameters.has_size || parameters.has_offset)) {
    return invalid(owner + " has a place in shared memory without a region; set shared_memory_region");
  }
  return {};
}

// An input as it was read, before anybody knows whether the elements are raw.
struct Pending {
  Spans contents;
  bool has_contents = false;
  bool has_region = false;
};

using Parameters = std::vector<std::pair<std::string, Spans>>;

bool add_parameter(Reader& in, Parameters& parameters) {
  auto& [key, value] = parameters.emplace_back();
  return parameters.size() <= kTensorsMax && parse_entry(in, key, value);
}

Status read_place(const std::string& owner, const Parameters& parameters, TensorParameters& out) {
  for (const auto& [key, value] : parameters) {
    if (auto status = read_tensor_parameter({key, owner}, value, out); !status.ok()) return status;
  }
  return check_range(owner, out);
}

Status check_input(const std::string& datatype, const InputTensor& tensor) {
  const auto wrong = [&tensor](const std::string& what) {
    return Status{Reason::kInvalidInput, "input \"" + tensor.name + "\" has " + what, 0, {{"input", tensor.name}}};
  };
  if (tensor.data_type == DataType::kUnspecified) {
    return wrong("datatype \"" + datatype +
                 "\", wanted BOOL, UINT8 to UINT64, INT8 to INT64, FP16, BF16, FP32, FP64 or BYTES");
  }
  if (tensor.shape.empty()) return wrong("no shape; say it, dimension 0 first");
  if (std::any_of(tensor.shape.begin(), tensor.shape.end(), [](std::int64_t length) { return length < 0; })) {
    return wrong("shape " + to_string(tensor.shape) + " with a dimension below 0; send the true shape");
  }
  return {};
}

Status parse_input(Reader& in, InputTensor& tensor, Pending& pending, RequestView& out) {
  std::uint64_t outer = 0;
  std::uint64_t size = 0;
  if (!in.enter(outer)) return bad_field("inputs", "a tensor no longer than the message");
  std::string datatype;
  Parameters parameters;
  Spans pieces;
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return bad_field("inputs", "a tensor");
    const bool is_bytes = tag.type == Type::kBytes;
    if (tag.field == 1 && is_bytes) {
      if (!in.text(tensor.name, kNameMax)) return bad_field("inputs.name", "UTF-8 of at most 256 bytes");
    } else if (tag.field == 2 && is_bytes) {
      if (!in.text(datatype, kNameMax)) return bad_field("inputs.datatype", "UTF-8 of at most 256 bytes");
    } else if (tag.field == 3) {
      if (!in.integers(tag.type, tensor.shape, kMaxRank)) return bad_field("inputs.shape", "at most 8 integers");
    } else if (tag.field == 4 && is_bytes) {
      if (!add_parameter(in, parameters)) {
        return bad_field("inputs.parameters", "at most 64, with names of at most 256 bytes of UTF-8");
      }
    } else if (tag.field == 5 && is_bytes) {
      if (!in.bytes(pieces, size)) return bad_field("inputs.contents", "a length that the message holds");
      pending.contents.insert(pending.contents.end(), pieces.begin(), pieces.end());
      pending.has_contents = true;
    } else if (!in.skip(tag.type)) {
      return bad_field("inputs", "a tensor");
    }
  }
  if (in.failed()) return bad_field("inputs", "a tensor");
  in.leave(outer);
  tensor.data_type = data_type_from_name(datatype).value_or(DataType::kUnspecified);
  if (auto status = check_input(datatype, tensor); !status.ok()) return status;
  if (parameters.empty()) return {};
  TensorParameters place;
  if (auto status = read_place("input \"" + tensor.name + "\"", parameters, place); !status.ok()) return status;
  pending.has_region = !place.range.region.empty();
  if (pending.has_region) out.input_regions.emplace_back(out.inputs.size() - 1, std::move(place.range));
  return {};
}

Status parse_output(Reader& in, RequestView& out) {
  std::uint64_t outer = 0;
  if (!in.enter(outer)) return bad_field("outputs", "a tensor no longer than the message");
  auto& wanted = out.outputs.emplace_back();
  Parameters parameters;
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return bad_field("outputs", "a tensor");
    if (tag.field == 1 && tag.type == Type::kBytes) {
      if (!in.text(wanted.name, kNameMax)) return bad_field("outputs.name", "UTF-8 of at most 256 bytes");
    } else if (tag.field == 2 && tag.type == Type::kBytes) {
      if (!add_parameter(in, parameters)) {
        return bad_field("outputs.parameters", "at most 64, with names of at most 256 bytes of UTF-8");
      }
    } else if (!in.skip(tag.type)) {
      return bad_field("outputs", "a tensor");
    }
  }
  if (in.failed()) return bad_field("outputs", "a tensor");
  in.leave(outer);
  const auto owner = "output \"" + wanted.name + "\"";
  const auto same = [&](const WantedOutput& other) { return other.name == wanted.name; };
  if (std::count_if(out.outputs.begin(), out.outputs.end(), same) > 1) {
    return invalid(owner + " is asked for twice; name it once");
  }
  TensorParameters place;
  if (auto status = read_place(owner, parameters, place); !status.ok()) return status;
  wanted.classes = static_cast<std::int64_t>(place.classes);
  if (place.range.region.empty()) return {};
  if (place.classes > 0) return invalid(owner + " is asked for as classes and in shared memory; choose one");
  wanted.region = std::move(place.range);
  return {};
}

// Gives every input its bytes: raw ones in order, or its own contents, or, later, those in shared memory.
Status place_elements(std::vector<Pending>& pending, std::vector<std::pair<Spans, std::uint64_t>>& raw,
                      RequestView& out) {
  std::size_t next = 0;
  for (std::size_t i = 0; i < pending.size(); ++i) {
    auto& tensor = out.inputs[i];
    const auto owner = "input \"" + tensor.name + "\"";
    if (pending[i].has_region) {
      if (pending[i].has_contents) return invalid(owner + " has contents and lies in shared memory; choose one");
      continue;
    }
    if (raw.empty()) {
      if (auto status = read_contents(pending[i].contents, tensor); !status.ok()) return status;
      continue;
    }
    if (pending[i].has_contents) {
      return invalid(owner + " has contents beside raw_input_contents; send all inputs raw or none");
    }
    if (next < raw.size()) {
      tensor.data = std::move(raw[next].first);
      tensor.size_bytes = raw[next].second;
    }
    ++next;
  }
  if (raw.empty() || next == raw.size()) return {};
  return invalid("raw_input_contents has " + std::to_string(raw.size()) + " element(s), wanted " +
                 std::to_string(next) + ", one for each input that is not in shared memory");
}

Status parse_version(const std::string& text, std::int64_t& out) {
  if (text.empty()) return {};
  const auto* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, out);
  if (error == std::errc() && stop == end && out >= 1) return {};
  return invalid("model_version is \"" + text + "\", wanted digits of a number >= 1, or nothing for the highest");
}

// One entry of a map of parameters.
Writer parameter(std::string_view key, const Writer& value) {
  Writer out;
  out.text(1, key);
  out.message(2, value);
  return out;
}

// InferParameter of an integer.
Writer number(std::uint64_t value) {
  Writer out;
  out.choice(2, value);
  return out;
}

// Where the time went, in the words of PredictResponse.
void write_timing(Writer& out, const Answer& answer) {
  const auto& timing = answer.timing;
  const std::pair<std::string_view, std::int64_t> numbers[] = {
      {"queue_us", timing.queue_us},     {"batch_wait_us", timing.batch_wait_us}, {"compute_us", timing.compute_us},
      {"total_us", timing.total_us},     {"predicted_us", timing.predicted_us},   {"slack_us", timing.slack_us},
      {"batch_size", timing.batch_size}, {"staleness_ms", answer.staleness_ms}};
  for (const auto& [key, value] : numbers) out.message(4, parameter(key, number(static_cast<std::uint64_t>(value))));
  Writer flag;
  flag.choice(1, answer.from_cache ? 1 : 0);
  out.message(4, parameter("from_cache", flag));
}

// The answer with its outputs in the order in which they were asked for.
Writer encode_response(const Answer& answer, const RequestView& request, bool streamed) {
  Writer out;
  out.text(1, answer.model.name);
  out.text(2, std::to_string(answer.model.version));
  out.text(3, request.request_id);
  if (streamed) {
    Writer yes;
    yes.varint(1, 1);
    out.message(4, parameter("triton_final_response", yes));
  }
  if (request.wants_timing) write_timing(out, answer);
  Writer raw;
  const auto add = [&](const OutputTensor& output, const WantedOutput* wanted) {
    const bool as_classes = wanted != nullptr && wanted->classes > 0;
    const auto classes = as_classes ? classify(output, wanted->classes, answer.model) : Classes{};
    Writer tensor;
    tensor.text(1, output.spec->name);
    tensor.text(2, as_classes ? "BYTES" : name(output.spec->data_type));
    tensor.packed(3, as_classes ? classes.shape : output.shape);
    if (wanted != nullptr && wanted->region) {
      Writer region;
      region.text(3, wanted->region->region);
      tensor.message(4, parameter("shared_memory_region", region));
      tensor.message(4, parameter("shared_memory_byte_size", number(output.size)));
      tensor.message(4, parameter("shared_memory_offset", number(wanted->region->offset)));
      // Clients find contents by the number of their output; Triton's own in C++ does not look whether there are so
      // many.
      raw.element(6, {});
    } else if (as_classes) {
      raw.element(6, classes.bytes);
    } else if (output.size == 0) {
      raw.element(6, {});
    } else {
      raw.bytes(6, output.buffer, output.offset, output.size);
    }
    out.message(5, tensor);
  };
  if (request.outputs.empty()) {
    for (const auto& output : answer.outputs) add(output, nullptr);
  }
  for (const auto& wanted : request.outputs) {
    for (const auto& output : answer.outputs) {
      if (output.spec->name == wanted.name) add(output, &wanted);
    }
  }
  out.append(std::move(raw));
  return out;
}

}  // namespace

Status InferCodec::parse(const Spans& message, RequestView& out) const {
  Reader in(message);
  std::string version;
  std::vector<Pending> pending;
  std::vector<std::pair<Spans, std::uint64_t>> raw;
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag)) return malformed("it ends inside a field, or a field number is out of range");
    const bool is_bytes = tag.type == Type::kBytes;
    if (tag.field == 1 && is_bytes) {
      if (!in.text(out.model_name, kNameMax)) return bad_field("model_name", "UTF-8 of at most 256 bytes");
    } else if (tag.field == 2 && is_bytes) {
      if (!in.text(version, kNameMax)) return bad_field("model_version", "UTF-8 of at most 256 bytes");
    } else if (tag.field == 3 && is_bytes) {
      if (!in.text(out.request_id, kIdMax)) return bad_field("id", "UTF-8 of at most 128 bytes");
    } else if (tag.field == 4 && is_bytes) {
      std::string key;
      Spans value;
      if (!parse_entry(in, key, value)) return bad_field("parameters", "names of at most 256 bytes of UTF-8");
      if (auto status = read_request_parameter(key, value, out); !status.ok()) return status;
    } else if (tag.field == 5 && is_bytes) {
      if (out.inputs.size() == kTensorsMax) return bad_field("inputs", "at most 64 tensors");
      auto& tensor = out.inputs.emplace_back();
      if (auto status = parse_input(in, tensor, pending.emplace_back(), out); !status.ok()) return status;
    } else if (tag.field == 6 && is_bytes) {
      if (out.outputs.size() == kTensorsMax) return bad_field("outputs", "at most 64 tensors");
      if (auto status = parse_output(in, out); !status.ok()) return status;
    } else if (tag.field == 7 && is_bytes) {
      auto& [pieces, size] = raw.emplace_back();
      if (raw.size() > kTensorsMax) return bad_field("raw_input_contents", "at most 64 elements");
      if (!in.bytes(pieces, size)) return bad_field("raw_input_contents", "a length that the message holds");
    } else if (!in.skip(tag.type)) {
      return malformed("field " + std::to_string(tag.field) + " runs over the end of the message");
    }
  }
  if (in.failed()) return malformed("it ends inside a field");
  if (out.model_name.empty()) return invalid("model_name is missing; set it to a name that RepositoryIndex returns");
  if (auto status = parse_version(version, out.model_version); !status.ok()) return status;
  if (out.sequence_id.empty() && (out.sequence_start || out.sequence_end)) {
    const auto* flag = out.sequence_start ? "sequence_start" : "sequence_end";
    return invalid(std::string("parameter `") + flag + "` without `sequence_id`; name the sequence");
  }
  return place_elements(pending, raw, out);
}

Writer InferCodec::encode(const Answer& answer, const RequestView& request) const {
  return encode_response(answer, request, false);
}

Status InferCodec::parse_streamed(const Spans& message, RequestView& out) const { return parse(message, out); }

Writer InferCodec::encode_streamed(const Answer& answer, const RequestView& request) const {
  Writer out;
  out.message(2, encode_response(answer, request, true));
  return out;
}

Writer InferCodec::encode_refusal(const Status& status, const RequestView& request) const {
  Writer response;
  response.text(1, request.model_name);
  response.text(3, request.request_id);
  Writer out;
  out.text(1, clip_message(status.message));
  out.message(2, response);
  return out;
}

// Triton's code is UNAVAILABLE for whatever another try may change.
int InferCodec::code(Reason reason) const noexcept {
  constexpr int kUnavailable = 14;
  if (statuses_ == Statuses::kOwn) return canonical_code(reason);
  switch (reason) {
    case Reason::kModelNotReady:
    case Reason::kQueueFull:
    case Reason::kSequencesFull:
    case Reason::kDeadlinePassed:
    case Reason::kDeadlineUnmeetable:
    case Reason::kSuperseded:
      return kUnavailable;
    default:
      return canonical_code(reason);
  }
}

}  // namespace starling::predict
