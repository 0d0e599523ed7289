// Element types, shapes and signatures: what a tensor is, without its bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace starling {

// Same numbers as starling.tensor.v1.DataType, so that a wire value is a cast away after a range check.
enum class DataType : std::uint8_t {
  kUnspecified = 0,
  kBool = 1,
  kUint8 = 2,
  kUint16 = 3,
  kUint32 = 4,
  kUint64 = 5,
  kInt8 = 6,
  kInt16 = 7,
  kInt32 = 8,
  kInt64 = 9,
  kFp16 = 10,
  kBf16 = 11,
  kFp32 = 12,
  kFp64 = 13,
  kBytes = 14,  // elements of any length, see byte_elements.h
};

inline constexpr int kDataTypeCount = 15;
inline constexpr std::size_t kMaxRank = 8;

using Shape = std::vector<std::int64_t>;

// Bytes of one element, of kBytes the least: an empty one, its length alone; 0 for kUnspecified.
std::size_t width(DataType type) noexcept;

// Field name such as "FP32", as in config.pbtxt without TYPE_.
std::string_view name(DataType type) noexcept;

std::optional<DataType> data_type_from_name(std::string_view name) noexcept;

// Product of the dimensions times the element width, so the least that a tensor of kBytes takes; nothing when a
// dimension is negative or the product does not fit 63 bits.
std::optional<std::uint64_t> byte_size(DataType type, const std::int64_t* dims, std::size_t rank) noexcept;

// For people: "[1, 416, 416, 3]"; -1 prints as "?".
std::string to_string(const Shape& shape);

// A name, a type and the dimensions behind the batch; -1 stands for any size >= 1.
struct TensorSpec {
  std::string name;
  DataType data_type = DataType::kUnspecified;
  Shape dims;
};

struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
};

// For people: "uint8[?, 416, 416, 3]" with the batch, where there is one, as the first "?".
std::string to_string(const TensorSpec& spec, bool batched = true);

}  // namespace starling
