#include "tensor.h"

#include <array>

namespace starling {
namespace {

struct TypeFacts {
  std::string_view name;
  std::size_t width;
};

constexpr std::array<TypeFacts, kDataTypeCount> kTypes{{
    {"UNSPECIFIED", 0},
    {"BOOL", 1},
    {"UINT8", 1},
    {"UINT16", 2},
    {"UINT32", 4},
    {"UINT64", 8},
    {"INT8", 1},
    {"INT16", 2},
    {"INT32", 4},
    {"INT64", 8},
    {"FP16", 2},
    {"BF16", 2},
    {"FP32", 4},
    {"FP64", 8},
    {"BYTES", 4},
}};

void append_dims(std::string& out, const Shape& dims) {
  for (std::size_t i = 0; i < dims.size(); ++i) {
    if (i != 0) out += ", ";
    out += dims[i] < 0 ? "?" : std::to_string(dims[i]);
  }
}

}  // namespace

std::size_t width(DataType type) noexcept { return kTypes[static_cast<std::size_t>(type)].width; }

std::string_view name(DataType type) noexcept { return kTypes[static_cast<std::size_t>(type)].name; }

std::optional<DataType> data_type_from_name(std::string_view name) noexcept {
  for (std::size_t i = 1; i < kTypes.size(); ++i) {
    if (kTypes[i].name == name) return static_cast<DataType>(i);
  }
  return std::nullopt;
}

std::optional<std::uint64_t> byte_size(DataType type, const std::int64_t* dims, std::size_t rank) noexcept {
  std::int64_t size = static_cast<std::int64_t>(width(type));
  for (std::size_t i = 0; i < rank; ++i) {
    if (dims[i] < 0 || __builtin_mul_overflow(size, dims[i], &size)) return std::nullopt;
  }
  return static_cast<std::uint64_t>(size);
}

std::string to_string(const Shape& shape) {
  std::string out = "[";
  append_dims(out, shape);
  return out + "]";
}

std::string to_string(const TensorSpec& spec, bool batched) {
  std::string out(name(spec.data_type));
  out += batched ? "[?" : "[";
  if (batched && !spec.dims.empty()) out += ", ";
  append_dims(out, spec.dims);
  return out + "]";
}

}  // namespace starling
