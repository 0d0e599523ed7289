// Does a request fit a model's signature? Pure.
#pragma once

#include "model_config.h"

namespace starling {

// Checks names, types, shapes, sizes and the batch, brings the inputs into signature order and sets `rows`.
// A refusal says what was wanted, what was got and what to do.
Status check_request(const ModelConfig& config, Request& request);

// Are `bytes` the elements of this input of type BYTES?
Status check_elements(const ModelConfig& config, const InputTensor& input, const Spans& bytes);

// Is a request that fits the signature a step of a sequence? For models that keep state.
Status check_step(const ModelConfig& config, const Request& request);

}  // namespace starling
