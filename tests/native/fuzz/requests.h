// Inputs that mean something: where fuzzing begins.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace starling::fuzz {

using Rng = std::mt19937_64;

// A request, or operations, for one of the targets, with the two bytes that choose target and pieces before it.
std::vector<std::uint8_t> valid_input(Rng& rng);

}  // namespace starling::fuzz
