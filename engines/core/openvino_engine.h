// Runs ONNX or OpenVINO IR on the CPU: one compiled model per batch bucket, one infer request per slot and bucket.
#pragma once

#include <memory>
#include <vector>

#include "engine.h"

namespace starling {

struct OpenVinoOptions {
  std::string path;
  std::vector<std::int64_t> buckets{1};  // ascending
  int slots = 1;                         // batches in flight, each on `threads` threads
  int threads = 1;
  bool batched = true;  // see ModelConfig
};

// Throws Error(kCorruptModel) when the file can not be read or compiled, Error(kInvalidConfig) when its inputs or
// outputs are not those of `signature`.
std::unique_ptr<Engine> make_openvino_engine(Signature signature, const OpenVinoOptions& options);

}  // namespace starling
