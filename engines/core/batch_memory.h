// The two copies of a request's life: its rows into the batch, and its rows out of it.
#pragma once

#include <vector>

#include "engine.h"
#include "model_config.h"

namespace starling {

// Input memory of one slot, grown to the largest batch it has held.
class BatchMemory {
 public:
  // Points `batch`, whose slot and bucket are set, at contiguous inputs with the requests' rows in order, zero-padded
  // to the bucket: in the engine's own place where it has one.
  void gather(const ModelConfig& config, const std::vector<Request*>& requests, Engine& engine, Batch& batch);

  // Adds what the requests' sequences have as state behind the inputs; rows nobody asked for are zero.
  void gather_states(const ModelConfig& config, const std::vector<Request*>& requests, Batch& batch);

 private:
  std::vector<std::vector<std::uint8_t>> inputs_;
  std::vector<std::vector<std::uint8_t>> states_;
};

// Outputs of each request, in signature order, after post-processing. The buffers are shared by the whole batch.
// Throws std::runtime_error when the engine's outputs are not what the model promised.
std::vector<std::vector<OutputTensor>> scatter(const ModelConfig& config, const std::vector<Request*>& requests,
                                               const Batch& batch);

// Copies the states that a batch has left to the requests' sequences, as what comes next. Throws as `scatter` does.
void keep_states(const ModelConfig& config, const std::vector<Request*>& requests, const Batch& batch);

}  // namespace starling
