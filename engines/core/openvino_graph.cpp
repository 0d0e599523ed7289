#include "openvino_graph.h"

#include <openvino/openvino.hpp>

#include "status.h"

namespace starling {
namespace {

DataType data_type(const ov::element::Type& type) {
  switch (static_cast<ov::element::Type_t>(type)) {
    case ov::element::boolean:
      return DataType::kBool;
    case ov::element::u8:
      return DataType::kUint8;
    case ov::element::u16:
      return DataType::kUint16;
    case ov::element::u32:
      return DataType::kUint32;
    case ov::element::u64:
      return DataType::kUint64;
    case ov::element::i8:
      return DataType::kInt8;
    case ov::element::i16:
      return DataType::kInt16;
    case ov::element::i32:
      return DataType::kInt32;
    case ov::element::i64:
      return DataType::kInt64;
    case ov::element::f16:
      return DataType::kFp16;
    case ov::element::bf16:
      return DataType::kBf16;
    case ov::element::f32:
      return DataType::kFp32;
    case ov::element::f64:
      return DataType::kFp64;
    case ov::element::string:
      return DataType::kBytes;
    default:
      return DataType::kUnspecified;
  }
}

template <typename Ports>
std::vector<TensorSpec> describe(const Ports& ports, const std::string& path) {
  std::vector<TensorSpec> specs;
  for (const auto& port : ports) {
    TensorSpec spec{port.get_any_name(), data_type(port.get_element_type()), {}};
    const auto& shape = port.get_partial_shape();
    if (spec.data_type == DataType::kUnspecified || shape.rank().is_dynamic()) {
      throw Error(Reason::kCorruptModel, path + ": tensor \"" + spec.name + "\" is " +
                                             port.get_element_type().to_string() + shape.to_string() +
                                             ", which no request can carry; convert the model");
    }
    for (const auto& d : shape) spec.dims.push_back(d.is_static() ? d.get_length() : -1);
    specs.push_back(std::move(spec));
  }
  return specs;
}

}  // namespace

std::string last_line(const char* text) {
  std::string s(text);
  // OpenVINO starts with "Exception from file:line:"; the cause is the last line that is not empty.
  while (!s.empty() && (s.back() == '\n' || s.back() == ' ')) s.pop_back();
  const auto cut = s.find_last_of('\n');
  return cut == std::string::npos ? s : s.substr(cut + 1);
}

Signature read_graph(const std::string& path) {
  try {
    const auto model = ov::Core().read_model(path);
    return {describe(model->inputs(), path), describe(model->outputs(), path)};
  } catch (const Error&) {
    throw;
  } catch (const std::exception& e) {
    throw Error(Reason::kCorruptModel, path + ": not a readable model: " + last_line(e.what()));
  }
}

}  // namespace starling
