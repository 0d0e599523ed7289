// The two copies of a request's life: its rows into the batch, and its rows out of it.
#pragma once

#include <optional>
#include <utility>
#include <vector>

#include "engine.h"
#include "model_config.h"

namespace starling {

// Input memory of one slot, grown to the largest batch it has held.
class BatchMemory {
 public:
  // Points `batch`, whose slot and bucket are set, at contiguous inputs with the requests' rows in order, zero-padded
  // to the bucket: in the engine's own place where it has one. Returns a request whose bytes could not be had, and why;
  // the batch is then to be gathered again without it.
  std::optional<std::pair<Request*, Status>> gather(const ModelConfig& config, const std::vector<Request*>& requests,
                                                    Engine& engine, Batch& batch);

  // Adds what the requests' sequences have as state behind the inputs; rows nobody asked for are zero.
  void gather_states(const ModelConfig& config, const std::vector<Request*>& requests, Batch& batch);

 private:
  std::vector<std::vector<std::uint8_t>> inputs_;
  std::vector<std::vector<std::uint8_t>> states_;
};

// What one request gets of a batch.
struct Scattered {
  Status status;                      // why a sink did not take an output
  std::vector<OutputTensor> outputs;  // signature order
};

// Outputs of each request after post-processing: those with a sink are written to it, the others share buffers of the
// whole batch. Throws std::runtime_error when the engine's outputs are not what the model promised.
std::vector<Scattered> scatter(const ModelConfig& config, const std::vector<Request*>& requests, const Batch& batch);

// Copies the states that a batch has left to the requests' sequences, as what comes next. Throws as `scatter` does.
void keep_states(const ModelConfig& config, const std::vector<Request*>& requests, const Batch& batch);

}  // namespace starling
