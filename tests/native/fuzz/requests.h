// Inputs that mean something: where fuzzing begins.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace starling::fuzz {

using Rng = std::mt19937_64;

// A request, or operations, for one of the targets, with the two bytes that choose target and pieces before it.
std::vector<std::uint8_t> valid_input(Rng& rng);

std::string valid_messages(Rng& rng);  // of one call, behind the number of their encoding
std::string valid_metadata(Rng& rng);  // the value of a header
std::string valid_session(Rng& rng);   // what a peer sends behind its preface, and before it how fast it reads

}  // namespace starling::fuzz
