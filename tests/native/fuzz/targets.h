// What is fuzzed: each takes any bytes, and ends the process when a promise is broken.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <vector>

#include "request.h"

namespace starling::fuzz {

using Bytes = std::span<const std::uint8_t>;

inline void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "fuzz_wire: %s\n", what);
  std::abort();
}

// A message cut into pieces, each an allocation of its own, as a transport's slices are.
struct Cut {
  Cut(Bytes bytes, std::size_t step);
  std::vector<std::vector<std::uint8_t>> parts;
  Spans spans;
};

void fuzz_codec(bool infer, bool stream, std::size_t step, Bytes message);
void fuzz_reader(std::size_t step, Bytes operations);
void fuzz_elements(std::size_t step, Bytes tensor);
void fuzz_regions(Bytes operations);
void fuzz_messages(std::size_t step, Bytes stream);
void fuzz_metadata(Bytes text);
void fuzz_connection(std::size_t step, Bytes bytes);

}  // namespace starling::fuzz
