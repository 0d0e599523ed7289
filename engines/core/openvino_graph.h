// What a model file says of itself, for configurations that leave it out.
#pragma once

#include <string>

#include "tensor.h"

namespace starling {

// Inputs and outputs of an ONNX or OpenVINO IR file in its order; `dims` are whole shapes, -1 where any length will do.
// Throws Error(kCorruptModel) when it can not be read or has a tensor that no request can carry.
Signature read_graph(const std::string& path);

// The cause in an error text of OpenVINO.
std::string last_line(const char* text);

}  // namespace starling
