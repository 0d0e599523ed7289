// Outputs of an answered request as a cache keeps them.
#pragma once

#include <cstdint>
#include <vector>

#include "request.h"

namespace starling {

// The same outputs; a row that would keep alive a batch buffer of more than twice its size is copied out of it, so that
// what a cache holds is what it counts.
std::vector<OutputTensor> detach(std::vector<OutputTensor> outputs);

// Bytes that these outputs keep alive; a buffer shared by several of them counts once.
std::uint64_t held_bytes(const std::vector<OutputTensor>& outputs);

}  // namespace starling
