#include "signature_check.h"

#include <algorithm>

#include "byte_elements.h"

namespace starling {
namespace {

std::string got(const InputTensor& input) { return std::string(name(input.data_type)) + to_string(input.shape); }

Status refuse(const ModelConfig& config, const std::string& input, const std::string& what) {
  return {Reason::kInvalidInput,
          "signature mismatch: " + label(config) + " input \"" + input + "\" " + what,
          0,
          {{"model", config.name}, {"input", input}}};
}

Status check_input(const ModelConfig& config, const TensorSpec& spec, const InputTensor& input) {
  const std::size_t batch = config.batched ? 1 : 0;
  bool fits = input.data_type == spec.data_type && input.shape.size() == spec.dims.size() + batch;
  for (std::size_t i = 0; fits && i < spec.dims.size(); ++i) {
    const auto length = input.shape[i + batch];
    fits = length > 0 && (spec.dims[i] < 0 || spec.dims[i] == length);
  }
  if (!fits) {
    return refuse(
        config, spec.name,
        "wants " + to_string(spec, config.batched) + ", got " + got(input) + "; convert or reshape before sending");
  }
  const auto expected = byte_size(input.data_type, input.shape.data(), input.shape.size());
  if (!expected) {
    return refuse(config, spec.name,
                  "has shape " + to_string(input.shape) + ", whose size overflows; send the true shape");
  }
  if (input.data_type == DataType::kBytes) {
    return input.source != nullptr ? Status{} : check_elements(config, input, input.data);
  }
  if (*expected == input.size_bytes) return {};
  return refuse(config, spec.name,
                "of shape " + to_string(input.shape) + " needs " + std::to_string(*expected) + " bytes, got " +
                    std::to_string(input.size_bytes) + "; send row-major elements without padding");
}

}  // namespace

Status check_elements(const ModelConfig& config, const InputTensor& input, const Spans& bytes) {
  const auto size = byte_size(input.data_type, input.shape.data(), input.shape.size());
  const auto wrong = check_elements(bytes, size.value_or(0) / width(input.data_type));
  if (wrong.empty()) return {};
  return refuse(config, input.name,
                "of shape " + to_string(input.shape) + " is no tensor of BYTES: " + wrong +
                    "; put its length before each element, 4 bytes little-endian");
}

Status check_request(const ModelConfig& config, Request& request) {
  const auto& specs = config.signature.inputs;
  const std::string model = label(config);
  for (std::size_t i = 0; i < specs.size(); ++i) {
    auto it = std::find_if(request.inputs.begin() + static_cast<std::ptrdiff_t>(std::min(i, request.inputs.size())),
                           request.inputs.end(), [&](const InputTensor& t) { return t.name == specs[i].name; });
    if (it == request.inputs.end()) {
      std::string names;
      for (const auto& t : request.inputs) names += (names.empty() ? "\"" : ", \"") + t.name + "\"";
      return {Reason::kInvalidInput,
              "signature mismatch: " + model + " wants input \"" + specs[i].name + "\" " +
                  to_string(specs[i], config.batched) + ", got " + (names.empty() ? "no input" : names) +
                  "; send every input of the signature once",
              0,
              {{"model", config.name}, {"input", specs[i].name}}};
    }
    std::iter_swap(request.inputs.begin() + static_cast<std::ptrdiff_t>(i), it);
    if (auto status = check_input(config, specs[i], request.inputs[i]); !status.ok()) return status;
  }
  if (request.inputs.size() > specs.size()) {
    return {Reason::kInvalidInput,
            "signature mismatch: " + model + " has " + std::to_string(specs.size()) + " input(s), \"" +
                request.inputs[specs.size()].name + "\" is not one of them or came twice; leave it out",
            0,
            {{"model", config.name}}};
  }
  const bool has_rows = config.batched && !request.inputs.empty();
  request.rows = has_rows ? request.inputs.front().shape.front() : 1;
  for (const auto& input : request.inputs) {
    if (!config.batched) break;
    const auto rows = input.shape.front();
    if (rows == request.rows && rows >= 1 && rows <= config.buckets.back()) continue;
    return {Reason::kInvalidInput,
            "batch mismatch: " + model + " input \"" + input.name + "\" has batch " + std::to_string(rows) +
                ", wanted the same number in every input, 1 to " + std::to_string(config.buckets.back()) +
                "; split the request",
            0,
            {{"model", config.name}, {"input", input.name}}};
  }
  if (request.size_bytes > config.queue.bytes_max) {
    // Not QUEUE_FULL: trying again would never help.
    return {Reason::kInvalidInput,
            "request of " + std::to_string(request.size_bytes) + " bytes is larger than the whole queue of " + model +
                ", " + std::to_string(config.queue.bytes_max) + " bytes; send fewer rows or smaller ones",
            0,
            {{"model", config.name}}};
  }
  return {};
}

Status check_step(const ModelConfig& config, const Request& request) {
  const auto refuse = [&](const std::string& what) {
    return Status{Reason::kInvalidInput, label(config) + " keeps state for each sequence" + what, 0, {}};
  };
  if (request.sequence_id.empty()) {
    return refuse(", and the request names none; set sequence_id, and sequence_start on the first step");
  }
  if (request.rows != 1) {
    return refuse(": a step is one row, got " + std::to_string(request.rows) + "; send one request for each step");
  }
  if (!request.stream_id.empty()) {
    return refuse(", and a newer frame of a stream would take the place of a step; leave stream_id out");
  }
  return {};
}

Signature with_states(Signature signature, const SequenceOptions& sequences) {
  for (const auto& state : sequences.states) {
    signature.inputs.push_back(state.input);
    signature.outputs.push_back({state.output_name, state.input.data_type, state.input.dims});
  }
  return signature;
}

}  // namespace starling
