#include "batch_memory.h"

#include <cstring>
#include <stdexcept>

#include "byte_elements.h"
#include "signature_check.h"

namespace starling {
namespace {

using Buffers = std::vector<std::shared_ptr<const Buffer>>;

// Of kBytes what the elements take when they are empty.
std::size_t row_bytes(DataType type, const Shape& shape, bool batched) {
  std::int64_t n = 1;
  for (std::size_t i = batched ? 1 : 0; i < shape.size(); ++i) n *= shape[i];
  return static_cast<std::size_t>(n) * width(type);
}

// One output of a batch, and how many bytes of it each request gets, in order.
struct Division {
  const std::uint8_t* data = nullptr;
  Shape shape;
  std::vector<std::size_t> sizes;
};

Division divide(const TensorSpec& spec, const BatchOutput& output, const std::vector<Request*>& requests,
                bool batched) {
  Division division{output.data, output.shape, {}};
  const auto row = row_bytes(spec.data_type, output.shape, batched);
  const auto* begin = output.data;
  for (const Request* request : requests) {
    auto size = row * static_cast<std::size_t>(request->rows);
    if (spec.data_type == DataType::kBytes) {
      const std::span rest(begin, output.data + output.size);
      const auto taken = elements_size(rest, size / width(spec.data_type));
      if (!taken) throw std::runtime_error("output \"" + spec.name + "\" has fewer elements than its shape says");
      size = *taken;
    }
    division.sizes.push_back(size);
    begin += size;
  }
  return division;
}

// Writes to the sinks, copies what has none out of engine memory; what was computed is shared as it is.
void share(const Division& division, std::size_t index, const std::vector<Request*>& requests,
           const ModelConfig& config, const std::shared_ptr<const Buffer>& computed, std::vector<Scattered>& out) {
  const auto& spec = config.signature.outputs[index];
  const auto sink_of = [&](const Request* request) {
    return request->sinks.empty() ? nullptr : request->sinks[index].get();
  };
  std::size_t kept = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) kept += sink_of(requests[i]) == nullptr ? division.sizes[i] : 0;
  const auto copies = computed == nullptr ? std::make_shared<Buffer>(kept) : nullptr;
  const auto* data = division.data;
  std::size_t copied = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const auto size = division.sizes[i];
    auto& output = out[i].outputs.emplace_back(OutputTensor{&spec, division.shape, nullptr, 0, size});
    if (config.batched) output.shape.front() = requests[i]->rows;
    if (const auto* sink = sink_of(requests[i]); sink != nullptr) {
      if (out[i].status.ok()) out[i].status = sink->write(spec, {data, size});
    } else if (computed != nullptr) {
      output.buffer = computed;
      output.offset = static_cast<std::size_t>(data - division.data);
    } else {
      if (size != 0) std::memcpy(copies->data() + copied, data, size);
      output.buffer = copies;
      output.offset = copied;
      copied += size;
    }
    data += size;
  }
}

void check_batch(const ModelConfig& config, const Batch& batch) {
  for (std::size_t o = 0; config.batched && o < config.signature.outputs.size(); ++o) {
    const auto& shape = batch.outputs[o].shape;
    if (!shape.empty() && shape.front() == batch.bucket) continue;
    throw std::runtime_error("output \"" + config.signature.outputs[o].name + "\" came back as " + to_string(shape) +
                             " for a batch of " + std::to_string(batch.bucket));
  }
}

Buffers collect_detections(const ModelConfig& config, const Batch& batch, std::int64_t batch_rows) {
  const auto& boxes = batch.outputs[0];
  const auto& scores = batch.outputs[1];
  if (boxes.shape.size() != 3 || scores.shape.size() != 3 || boxes.shape[1] != scores.shape[1] || boxes.shape[2] != 4) {
    throw std::runtime_error("detector returned boxes " + to_string(boxes.shape) + " and scores " +
                             to_string(scores.shape) + ", wanted [batch, anchors, 4] and [batch, anchors, classes]");
  }
  const auto anchors = scores.shape[1];
  const auto classes = scores.shape[2];
  const auto rows = static_cast<std::size_t>(batch_rows);
  std::vector<std::shared_ptr<Buffer>> buffers;
  for (const auto per_row : {kDetectionsMax * 4, kDetectionsMax, kDetectionsMax, std::int64_t{1}}) {
    buffers.push_back(std::make_shared<Buffer>(rows * static_cast<std::size_t>(per_row) * 4));
  }
  for (std::int64_t r = 0; r < batch_rows; ++r) {
    const DetectionRow row{reinterpret_cast<float*>(buffers[0]->data()) + r * kDetectionsMax * 4,
                           reinterpret_cast<float*>(buffers[1]->data()) + r * kDetectionsMax,
                           reinterpret_cast<std::int32_t*>(buffers[2]->data()) + r * kDetectionsMax,
                           reinterpret_cast<std::int32_t*>(buffers[3]->data()) + r};
    detect(reinterpret_cast<const float*>(boxes.data) + r * anchors * 4,
           reinterpret_cast<const float*>(scores.data) + r * anchors * classes, anchors, classes, config.detections,
           row);
  }
  return {buffers.begin(), buffers.end()};
}

// Only now are the elements of BYTES known; what is in the batch cannot change any more.
Status read_source(const ModelConfig& config, const InputTensor& input, std::span<std::uint8_t> out) {
  auto status = input.source->read(out);
  if (!status.ok() || input.data_type != DataType::kBytes) return status;
  return check_elements(config, input, {out});
}

Shape state_shape(const ModelConfig& config, std::size_t state, std::int64_t bucket) {
  const auto& dims = config.sequences.states[state].input.dims;
  Shape shape;
  if (config.batched) shape.push_back(bucket);
  shape.insert(shape.end(), dims.begin(), dims.end());
  return shape;
}

}  // namespace

std::optional<std::pair<Request*, Status>> BatchMemory::gather(const ModelConfig& config,
                                                               const std::vector<Request*>& requests, Engine& engine,
                                                               Batch& batch) {
  const auto count = config.signature.inputs.size();
  inputs_.resize(count);
  batch.inputs.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto& first = requests.front()->inputs[i];
    auto& target = batch.inputs[i];
    target.shape = first.shape;
    if (config.batched) target.shape.front() = batch.bucket;
    std::size_t filled = 0;
    std::int64_t rows = 0;
    for (const Request* request : requests) {
      filled += request->inputs[i].size_bytes;
      rows += request->rows;
    }
    const auto row = row_bytes(first.data_type, first.shape, config.batched);
    target.size = filled + row * static_cast<std::size_t>(batch.bucket - rows);
    auto* begin = engine.input_place(batch.slot, batch.bucket, i);
    if (begin == nullptr) {
      inputs_[i].resize(target.size);
      begin = inputs_[i].data();
    }
    auto* out = begin;
    for (Request* request : requests) {
      const auto& input = request->inputs[i];
      if (input.source != nullptr) {
        if (auto status = read_source(config, input, {out, input.size_bytes}); !status.ok()) return {{request, status}};
        out += input.size_bytes;
      }
      for (const auto piece : input.data) {
        std::memcpy(out, piece.data(), piece.size());
        out += piece.size();
      }
    }
    std::memset(out, 0, static_cast<std::size_t>(begin + target.size - out));
    target.data = begin;
  }
  return std::nullopt;
}

void BatchMemory::gather_states(const ModelConfig& config, const std::vector<Request*>& requests, Batch& batch) {
  const auto& states = config.sequences.states;
  const auto inputs = batch.inputs.size();
  states_.resize(states.size());
  batch.inputs.resize(inputs + states.size());
  for (std::size_t s = 0; s < states.size(); ++s) {
    const auto row = requests.front()->sequence_state->state[s].size();
    auto& buffer = states_[s];
    buffer.resize(row * static_cast<std::size_t>(batch.bucket));
    auto* out = buffer.data();
    for (const Request* request : requests) {
      std::memcpy(out, request->sequence_state->state[s].data(), row);
      out += row;
    }
    std::memset(out, 0, static_cast<std::size_t>(buffer.data() + buffer.size() - out));
    auto& target = batch.inputs[inputs + s];
    target.data = buffer.data();
    target.shape = state_shape(config, s, batch.bucket);
    target.size = buffer.size();
  }
}

void keep_states(const ModelConfig& config, const std::vector<Request*>& requests, const Batch& batch) {
  const auto& states = config.sequences.states;
  for (std::size_t s = 0; s < states.size(); ++s) {
    const auto& output = batch.outputs[config.signature.outputs.size() + s];
    const auto wanted = state_shape(config, s, batch.bucket);
    if (output.shape != wanted) {
      throw std::runtime_error("state \"" + states[s].output_name + "\" came back as " + to_string(output.shape) +
                               ", wanted " + to_string(wanted));
    }
    const auto* data = output.data;
    for (const Request* request : requests) {
      auto& next = request->sequence_state->next[s];
      std::memcpy(next.data(), data, next.size());
      data += next.size();
    }
  }
}

std::vector<Scattered> scatter(const ModelConfig& config, const std::vector<Request*>& requests, const Batch& batch) {
  std::int64_t rows = 0;
  for (const Request* request : requests) rows += request->rows;
  const bool detections = config.postprocess == Postprocess::kDetections;
  Buffers computed;
  if (detections) {
    computed = collect_detections(config, batch, rows);
  } else {
    check_batch(config, batch);
  }
  std::vector<Scattered> scattered(requests.size());
  for (std::size_t o = 0; o < config.signature.outputs.size(); ++o) {
    const auto& spec = config.signature.outputs[o];
    BatchOutput output;
    if (detections) {
      output = {computed[o]->data(), {rows}, computed[o]->size()};
      output.shape.insert(output.shape.end(), spec.dims.begin(), spec.dims.end());
    } else {
      output = batch.outputs[o];
    }
    const auto division = divide(spec, output, requests, config.batched);
    share(division, o, requests, config, detections ? computed[o] : nullptr, scattered);
  }
  return scattered;
}

}  // namespace starling
