// Tensors of BYTES as they travel and as engines get them: before each element its length, 4 bytes little-endian, and
// no padding. Zeros are empty elements.
#pragma once

#include <optional>
#include <string>

#include "request.h"

namespace starling {

// How many bytes the first `count` elements take; nothing when `bytes` do not hold so many.
std::optional<std::size_t> elements_size(std::span<const std::uint8_t> bytes, std::uint64_t count) noexcept;

// What is wrong with the bytes of a tensor of `count` elements; empty when they are exactly that.
std::string check_elements(const Spans& pieces, std::uint64_t count);

// Takes the first element off `bytes`, which hold one.
std::span<const std::uint8_t> take_element(std::span<const std::uint8_t>& bytes) noexcept;

// Where an element of this size begins behind its length, which is written.
std::uint8_t* put_length(std::uint8_t* out, std::size_t size) noexcept;

}  // namespace starling
