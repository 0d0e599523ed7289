#include "infer_contents.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "byte_elements.h"
#include "wire.h"

namespace starling::predict {
namespace {

using wire::Reader;
using wire::Tag;
using wire::Type;

struct Field {
  std::uint32_t number;
  const char* name;
};

// Where the elements of a type are; number 0 when it has no field.
Field field_of(DataType type) noexcept {
  switch (type) {
    case DataType::kBool:
      return {1, "bool_contents"};
    case DataType::kInt8:
    case DataType::kInt16:
    case DataType::kInt32:
      return {2, "int_contents"};
    case DataType::kInt64:
      return {3, "int64_contents"};
    case DataType::kUint8:
    case DataType::kUint16:
    case DataType::kUint32:
      return {4, "uint_contents"};
    case DataType::kUint64:
      return {5, "uint64_contents"};
    case DataType::kFp32:
      return {6, "fp32_contents"};
    case DataType::kFp64:
      return {7, "fp64_contents"};
    case DataType::kBytes:
      return {8, "bytes_contents"};
    default:
      return {0, ""};
  }
}

Status refuse(const InputTensor& tensor, const std::string& what) {
  return {Reason::kInvalidInput, "input \"" + tensor.name + "\" " + what, 0, {{"input", tensor.name}}};
}

// Whether a value, as protobuf extends it to 64 bits, is one of the type.
bool is_in_range(DataType type, std::uint64_t value) noexcept {
  const auto number = static_cast<std::int64_t>(value);
  switch (type) {
    case DataType::kBool:
      return value <= 1;
    case DataType::kInt8:
      return number >= std::numeric_limits<std::int8_t>::min() && number <= std::numeric_limits<std::int8_t>::max();
    case DataType::kInt16:
      return number >= std::numeric_limits<std::int16_t>::min() && number <= std::numeric_limits<std::int16_t>::max();
    case DataType::kInt32:
      return number >= std::numeric_limits<std::int32_t>::min() && number <= std::numeric_limits<std::int32_t>::max();
    case DataType::kUint8:
      return value <= std::numeric_limits<std::uint8_t>::max();
    case DataType::kUint16:
      return value <= std::numeric_limits<std::uint16_t>::max();
    case DataType::kUint32:
      return value <= std::numeric_limits<std::uint32_t>::max();
    default:
      return true;
  }
}

// Calls `each` with every element of the type's field, as far as it is made of varints; false when the message is
// malformed or `each` says so.
template <typename Each>
bool for_each_varint(const Spans& contents, std::uint32_t field, const Each& each) {
  Reader in(contents);
  Tag tag;
  std::uint64_t value = 0;
  while (in.more()) {
    if (!in.tag(tag)) return false;
    if (tag.field != field) {
      if (!in.skip(tag.type)) return false;
    } else if (tag.type == Type::kVarint) {
      if (!in.varint(value) || !each(value)) return false;
    } else {
      std::uint64_t outer = 0;
      if (tag.type != Type::kBytes || !in.enter(outer)) return false;
      while (in.more()) {
        if (!in.varint(value) || !each(value)) return false;
      }
      in.leave(outer);
    }
  }
  return !in.failed();
}

// Appends the pieces of every element of a fixed-width field, packed or not.
bool collect_fixed(const Spans& contents, std::uint32_t field, std::size_t size, Spans& out, std::uint64_t& total) {
  const auto single = size == 4 ? Type::kFixed32 : Type::kFixed64;
  Reader in(contents);
  Tag tag;
  Spans pieces;
  std::uint64_t length = 0;
  while (in.more()) {
    if (!in.tag(tag)) return false;
    if (tag.field != field) {
      if (!in.skip(tag.type)) return false;
      continue;
    }
    if (tag.type == single) {
      length = size;
      if (!in.fixed(pieces, size)) return false;
    } else if (tag.type != Type::kBytes || !in.bytes(pieces, length) || length % size != 0) {
      return false;
    }
    out.insert(out.end(), pieces.begin(), pieces.end());
    total += length;
  }
  return !in.failed();
}

// Calls `each` with every element of `bytes_contents`; false when the message is malformed.
template <typename Each>
bool for_each_text(const Spans& contents, std::uint32_t field, const Each& each) {
  Reader in(contents);
  Tag tag;
  Spans pieces;
  std::uint64_t size = 0;
  while (in.more()) {
    if (!in.tag(tag)) return false;
    if (tag.field != field) {
      if (!in.skip(tag.type)) return false;
    } else if (tag.type != Type::kBytes || !in.bytes(pieces, size)) {
      return false;
    } else {
      each(pieces, size);
    }
  }
  return !in.failed();
}

// The only field that has elements, or the first that should have none.
bool find_strange_field(const Spans& contents, std::uint32_t wanted, std::uint32_t& strange) {
  Reader in(contents);
  Tag tag;
  while (in.more()) {
    if (!in.tag(tag) || !in.skip(tag.type)) return false;
    if (tag.field != wanted && tag.field >= 1 && tag.field <= 8) strange = tag.field;
  }
  return !in.failed();
}

// Elements that have been checked and counted, written out right where they are wanted.
class TypedContents final : public ByteSource {
 public:
  TypedContents(const Spans& contents, std::uint32_t field, DataType type)
      : contents_(contents), field_(field), type_(type) {}

  Status read(std::span<std::uint8_t> out) const override {
    auto* at = out.data();
    if (type_ == DataType::kBytes) {
      for_each_text(contents_, field_, [&](const Spans& pieces, std::uint64_t length) {
        at = put_length(at, length);
        for (const auto piece : pieces) at = std::copy(piece.begin(), piece.end(), at);
      });
    } else {
      for_each_varint(contents_, field_, [&, size = width(type_)](std::uint64_t value) {
        std::memcpy(at, &value, size);  // little-endian, as everything here
        at += size;
        return true;
      });
    }
    return {};
  }

 private:
  const Spans contents_;
  const std::uint32_t field_;
  const DataType type_;
};

}  // namespace

Status read_contents(const Spans& contents, InputTensor& tensor) {
  const auto malformed = [&] {
    return refuse(tensor, "has malformed contents; send a message made from the protocol");
  };
  const auto type = std::string(name(tensor.data_type));
  const auto field = field_of(tensor.data_type);
  if (field.number == 0) return refuse(tensor, "is " + type + ", which has no typed contents; send it raw");
  std::uint32_t strange = 0;
  if (!find_strange_field(contents, field.number, strange)) return malformed();
  if (strange != 0) {
    return refuse(tensor, "is " + type + " and has elements in field " + std::to_string(strange) +
                              " of its contents; send all of them in " + field.name);
  }
  const auto expected = byte_size(tensor.data_type, tensor.shape.data(), tensor.shape.size());
  const auto element = width(tensor.data_type);
  const auto wrong_count = [&](std::uint64_t count) {
    return refuse(tensor, "of shape " + to_string(tensor.shape) + " needs " +
                              (expected ? std::to_string(*expected / element) + " elements" : "more than fit") +
                              ", got " + std::to_string(count) + " in " + field.name + "; send every element once");
  };
  if (tensor.data_type == DataType::kFp32 || tensor.data_type == DataType::kFp64) {
    if (!collect_fixed(contents, field.number, element, tensor.data, tensor.size_bytes)) return malformed();
    return tensor.size_bytes == expected ? Status{} : wrong_count(tensor.size_bytes / element);
  }
  std::uint64_t count = 0;
  const auto source = [&] { return std::make_shared<TypedContents>(contents, field.number, tensor.data_type); };
  if (tensor.data_type == DataType::kBytes) {
    std::size_t size = 0;
    const auto measure = [&](const Spans&, std::uint64_t length) {
      ++count;
      size += element + length;
    };
    if (!for_each_text(contents, field.number, measure)) return malformed();
    if (!expected || count != *expected / element) return wrong_count(count);
    tensor.size_bytes = size;
    tensor.source = source();
    return {};
  }
  std::optional<std::uint64_t> outside;
  const auto look = [&](std::uint64_t value) {
    ++count;
    if (!outside && !is_in_range(tensor.data_type, value)) outside = value;
    return true;
  };
  if (!for_each_varint(contents, field.number, look)) return malformed();
  if (outside) {
    const bool is_signed = field.number == 2;
    return refuse(tensor,
                  "has an element " +
                      (is_signed ? std::to_string(static_cast<std::int64_t>(*outside)) : std::to_string(*outside)) +
                      " in " + field.name + ", which is no " + type + "; send what fits");
  }
  if (!expected || count != *expected / element) return wrong_count(count);
  tensor.size_bytes = *expected;
  tensor.source = source();
  return {};
}

}  // namespace starling::predict
