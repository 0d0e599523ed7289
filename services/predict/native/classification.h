// The classification extension: the best elements of an output as text.
#pragma once

#include "model_config.h"
#include "request_view.h"

namespace starling::predict {

// An output of type BYTES.
struct Classes {
  Shape shape;        // [batch, classes], or [classes] without a batch
  std::string bytes;  // "value:index" or "value:index:label", each behind its 4-byte length
};

// Whether the elements of a type can be put in order.
bool is_classifiable(DataType type) noexcept;

// The `count` largest elements of each row, or of the whole without a batch; at most as many as it has. Of equal ones
// the first; NaN is the smallest.
Classes classify(const OutputTensor& output, std::int64_t count, const ModelConfig& model);

}  // namespace starling::predict
