#include "classification.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <type_traits>

namespace starling::predict {
namespace {

const std::vector<std::string>* find_labels(const ModelConfig& model, const std::string& output) {
  const auto it = model.labels.find(output);
  return it == model.labels.end() ? nullptr : &it->second;
}

void append(std::string& out, const std::string& text) {
  const auto size = static_cast<std::uint32_t>(text.size());
  char prefix[sizeof(size)];
  std::memcpy(prefix, &size, sizeof(size));
  out.append(prefix, sizeof(size));
  out += text;
}

struct Half {
  std::uint16_t bits;
};

struct BrainHalf {
  std::uint16_t bits;
};

template <typename T>
T number(T value) {
  return value;
}

float number(Half half) {
  const int exponent = half.bits >> 10 & 31;
  const int fraction = half.bits & 1023;
  const float size = exponent == 31  ? (fraction == 0 ? INFINITY : NAN)
                     : exponent == 0 ? std::ldexp(static_cast<float>(fraction), -24)
                                     : std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  return (half.bits & 0x8000) != 0 ? -size : size;
}

float number(BrainHalf half) { return std::bit_cast<float>(std::uint32_t{half.bits} << 16); }

template <typename T>
void append_best(const std::uint8_t* data, std::size_t size, std::size_t count, const std::vector<std::string>* labels,
                 std::string& out) {
  using Number = decltype(number(T{}));
  std::vector<Number> values(size);
  for (std::size_t i = 0; i < size; ++i) {
    T element;
    std::memcpy(&element, data + i * sizeof(T), sizeof(T));
    values[i] = number(element);
  }
  std::vector<std::size_t> order(size);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto better = [&](std::size_t a, std::size_t b) {
    if constexpr (std::is_floating_point_v<Number>) {
      if (std::isnan(values[a]) || std::isnan(values[b])) {
        return std::isnan(values[a]) == std::isnan(values[b]) ? a < b : std::isnan(values[b]);
      }
    }
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), better);
  for (std::size_t i = 0; i < count; ++i) {
    const auto index = order[i];
    auto text = std::to_string(values[index]) + ":" + std::to_string(index);
    if (labels != nullptr && index < labels->size()) text += ":" + (*labels)[index];
    append(out, text);
  }
}

// Calls `each` with a value of the C++ type of the elements; false for types without an order.
template <typename Each>
bool with_type(DataType type, const Each& each) {
  switch (type) {
    case DataType::kUint8:
      return each(std::uint8_t{});
    case DataType::kUint16:
      return each(std::uint16_t{});
    case DataType::kUint32:
      return each(std::uint32_t{});
    case DataType::kUint64:
      return each(std::uint64_t{});
    case DataType::kInt8:
      return each(std::int8_t{});
    case DataType::kInt16:
      return each(std::int16_t{});
    case DataType::kInt32:
      return each(std::int32_t{});
    case DataType::kInt64:
      return each(std::int64_t{});
    case DataType::kFp16:
      return each(Half{});
    case DataType::kBf16:
      return each(BrainHalf{});
    case DataType::kFp32:
      return each(float{});
    case DataType::kFp64:
      return each(double{});
    default:
      return false;
  }
}

}  // namespace

bool is_classifiable(DataType type) noexcept {
  return with_type(type, [](auto) { return true; });
}

Classes classify(const OutputTensor& output, std::int64_t count, const ModelConfig& model) {
  const auto rows = model.batched ? static_cast<std::size_t>(output.shape.front()) : 1;
  const auto row_bytes = rows == 0 ? 0 : output.size / rows;
  const auto size = row_bytes / width(output.spec->data_type);
  const auto best = std::min<std::size_t>(size, static_cast<std::size_t>(count));
  Classes out;
  if (model.batched) out.shape.push_back(output.shape.front());
  out.shape.push_back(static_cast<std::int64_t>(best));
  const auto* labels = find_labels(model, output.spec->name);
  const auto* data = output.buffer->data() + output.offset;
  with_type(output.spec->data_type, [&](auto zero) {
    for (std::size_t row = 0; row < rows; ++row) {
      append_best<decltype(zero)>(data + row * row_bytes, size, best, labels, out.bytes);
    }
    return true;
  });
  return out;
}

}  // namespace starling::predict
