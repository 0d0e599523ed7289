#include "batch_memory.h"

#include <cstring>

namespace starling {
namespace {

using Buffers = std::vector<std::shared_ptr<Buffer>>;

std::size_t row_bytes(DataType type, const Shape& shape, bool batched) {
  std::int64_t n = 1;
  for (std::size_t i = batched ? 1 : 0; i < shape.size(); ++i) n *= shape[i];
  return static_cast<std::size_t>(n) * width(type);
}

// Copies the rows of the batch out of engine memory, once.
Buffers collect(const ModelConfig& config, const Batch& batch, std::int64_t batch_rows) {
  Buffers buffers;
  for (std::size_t o = 0; o < config.signature.outputs.size(); ++o) {
    const auto& output = batch.outputs[o];
    const auto& spec = config.signature.outputs[o];
    if (config.batched && (output.shape.empty() || output.shape.front() != batch.bucket)) {
      throw std::runtime_error("output \"" + spec.name + "\" came back as " + to_string(output.shape) +
                               " for a batch of " + std::to_string(batch.bucket));
    }
    const auto size = row_bytes(spec.data_type, output.shape, config.batched) * static_cast<std::size_t>(batch_rows);
    buffers.push_back(std::make_shared<Buffer>(size));
    if (size != 0) std::memcpy(buffers.back()->data(), output.data, size);
  }
  return buffers;
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
  Buffers buffers;
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
  return buffers;
}

Shape state_shape(const ModelConfig& config, std::size_t state, std::int64_t bucket) {
  const auto& dims = config.sequences.states[state].input.dims;
  Shape shape;
  if (config.batched) shape.push_back(bucket);
  shape.insert(shape.end(), dims.begin(), dims.end());
  return shape;
}

}  // namespace

void BatchMemory::gather(const ModelConfig& config, const std::vector<Request*>& requests, Engine& engine,
                         Batch& batch) {
  const auto count = config.signature.inputs.size();
  inputs_.resize(count);
  batch.inputs.resize(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto& first = requests.front()->inputs[i];
    auto& target = batch.inputs[i];
    target.shape = first.shape;
    if (config.batched) target.shape.front() = batch.bucket;
    const auto row = row_bytes(first.data_type, first.shape, config.batched);
    const auto size = row * static_cast<std::size_t>(batch.bucket);
    auto* begin = engine.input_place(batch.slot, batch.bucket, i);
    if (begin == nullptr) {
      inputs_[i].resize(size);
      begin = inputs_[i].data();
    }
    auto* out = begin;
    for (const Request* request : requests) {
      for (const auto piece : request->inputs[i].data) {
        std::memcpy(out, piece.data(), piece.size());
        out += piece.size();
      }
    }
    std::memset(out, 0, static_cast<std::size_t>(begin + size - out));
    target.data = begin;
  }
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

std::vector<std::vector<OutputTensor>> scatter(const ModelConfig& config, const std::vector<Request*>& requests,
                                               const Batch& batch) {
  std::int64_t batch_rows = 0;
  for (const Request* request : requests) batch_rows += request->rows;
  std::vector<std::vector<OutputTensor>> outputs(requests.size());
  const bool detections = config.postprocess == Postprocess::kDetections;
  const auto buffers = detections ? collect_detections(config, batch, batch_rows) : collect(config, batch, batch_rows);
  for (std::size_t o = 0; o < buffers.size(); ++o) {
    const auto& spec = config.signature.outputs[o];
    Shape shape{1};
    if (detections) {
      shape.insert(shape.end(), spec.dims.begin(), spec.dims.end());
    } else {
      shape = batch.outputs[o].shape;
    }
    const auto row = row_bytes(spec.data_type, shape, config.batched);
    std::size_t offset = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      if (config.batched) shape.front() = requests[i]->rows;
      const auto size = row * static_cast<std::size_t>(requests[i]->rows);
      outputs[i].push_back({&spec, shape, buffers[o], offset, size});
      offset += size;
    }
  }
  return outputs;
}

}  // namespace starling
