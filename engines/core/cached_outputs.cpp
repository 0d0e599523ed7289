#include "cached_outputs.h"

#include <algorithm>
#include <cstring>

namespace starling {

std::vector<OutputTensor> detach(std::vector<OutputTensor> outputs) {
  for (auto& output : outputs) {
    if (output.buffer == nullptr || output.buffer->size() / 2 <= output.size) continue;
    auto own = std::make_shared<Buffer>(output.size);
    if (output.size != 0) std::memcpy(own->data(), output.buffer->data() + output.offset, output.size);
    output.buffer = std::move(own);
    output.offset = 0;
  }
  return outputs;
}

std::uint64_t held_bytes(const std::vector<OutputTensor>& outputs) {
  std::uint64_t bytes = 0;
  for (auto it = outputs.begin(); it != outputs.end(); ++it) {
    bytes += sizeof(OutputTensor) + it->shape.size() * sizeof(Shape::value_type);
    if (it->buffer == nullptr) continue;
    const auto same = [&](const OutputTensor& other) { return other.buffer == it->buffer; };
    if (std::none_of(outputs.begin(), it, same)) bytes += it->buffer->size();
  }
  return bytes;
}

}  // namespace starling
