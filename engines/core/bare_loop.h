// The OpenVINO engine with nothing around it: what serving a model is measured against.
#pragma once

#include <cstdint>
#include <string>

namespace starling {

// Rows per second of runs of `rows` rows on one thread, for about `seconds`. The graph's first dimension is the batch,
// all others are fixed. Throws Error as loading a model does, and Error(kEngineFailed) when a run fails.
double bare_rows_per_s(const std::string& path, std::int64_t rows, double seconds);

}  // namespace starling
