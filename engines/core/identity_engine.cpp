#include "identity_engine.h"

#include <thread>

namespace starling {

IdentityEngine::IdentityEngine(Signature signature, Options options)
    : signature_(std::move(signature)), options_(options) {
  bool paired = signature_.inputs.size() == signature_.outputs.size();
  for (std::size_t i = 0; paired && i < signature_.inputs.size(); ++i) {
    paired = signature_.inputs[i].data_type == signature_.outputs[i].data_type &&
             signature_.inputs[i].dims == signature_.outputs[i].dims;
  }
  if (!paired) {
    throw Error(Reason::kInvalidConfig,
                "backend \"identity\" returns its inputs: give output i the data_type and dims of input i");
  }
}

void IdentityEngine::submit(Batch& batch, Done done) {
  const auto n = batches_.fetch_add(1, std::memory_order_relaxed) + 1;
  if (options_.delay_us > 0) std::this_thread::sleep_for(std::chrono::microseconds(options_.delay_us));
  if (options_.fail_every > 0 && n % options_.fail_every == 0) {
    done("identity engine was told to fail every " + std::to_string(options_.fail_every) + " batches");
    return;
  }
  batch.outputs.resize(batch.inputs.size());
  for (std::size_t i = 0; i < batch.inputs.size(); ++i) {
    const auto& input = batch.inputs[i];
    batch.outputs[i] = {input.data, input.shape, input.size};
  }
  done({});
}

}  // namespace starling
