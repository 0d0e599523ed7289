// InferTensorContents: elements of a tensor one by one, made into the row-major bytes that engines read.
#pragma once

#include "request_view.h"

namespace starling::predict {

// Points `tensor`, whose type and shape are known, at its elements in `contents`: where they lie when they are packed
// floats, otherwise they are decoded into their batch. Checks their field, their number and their range.
Status read_contents(const Spans& contents, InputTensor& tensor);

}  // namespace starling::predict
