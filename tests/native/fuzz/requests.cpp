#include "requests.h"

#include "wire.h"

namespace starling::fuzz {
namespace {

using wire::Writer;

Writer predict_request(Rng& rng) {
  Writer request;
  request.text(1, "nanodet");
  request.varint(2, rng() % 3);
  request.text(3, "id");
  for (std::uint64_t i = 0; i < 1 + rng() % 3; ++i) {
    Writer tensor;
    tensor.text(1, "frame");
    tensor.varint(2, rng() % 15);
    tensor.packed(3, {1, static_cast<std::int64_t>(rng() % 5), 3});
    tensor.text(4, std::string(rng() % 40, 'p'));
    request.message(4, tensor);
  }
  request.text(5, "boxes");
  request.text(6, "cam");
  request.varint(7, rng());
  request.varint(8, rng() % 5);
  Writer budget;
  budget.varint(1, rng() % 3);
  budget.varint(2, rng() % 1'000'000'000);
  request.message(9, budget);
  Writer policy;
  policy.message(1, budget);
  policy.fixed32(2, rng() % 2 == 0 ? 0x3F733333U : static_cast<std::uint32_t>(rng()));
  request.message(10, policy);
  for (std::uint64_t i = 0; i < rng() % 6; ++i) {
    Writer alternative;
    switch (rng() % 3) {
      case 0:
        alternative.text(1, "nanodet-small");
        break;
      case 1:
        alternative.message(2, policy);
        break;
      default:
        alternative.message(3, budget);
    }
    request.message(11, alternative);
  }
  return request;
}

Writer parameter(const char* key, std::uint32_t choice, std::uint64_t value) {
  Writer parameter_value;
  parameter_value.choice(choice, value);
  Writer entry;
  entry.text(1, key);
  entry.message(2, parameter_value);
  return entry;
}

// The parameters that put a tensor into shared memory, now and then with one missing.
void add_region(Writer& tensor, std::uint32_t field, Rng& rng) {
  Writer name;
  name.text(3, "region");
  Writer entry;
  entry.text(1, "shared_memory_region");
  entry.message(2, name);
  if (rng() % 8 != 0) tensor.message(field, entry);
  if (rng() % 8 != 0) tensor.message(field, parameter("shared_memory_byte_size", 2, rng() % 2 == 0 ? 12 : rng()));
  if (rng() % 2 != 0) tensor.message(field, parameter("shared_memory_offset", 2, rng() % 2 == 0 ? 64 : rng()));
}

Writer infer_contents(Rng& rng) {
  Writer contents;
  const auto field = static_cast<std::uint32_t>(1 + rng() % 8);
  if (field == 8) {
    for (std::uint64_t i = 0; i < rng() % 4; ++i) contents.element(field, std::string(rng() % 3, 'b'));
  } else if (field >= 6) {
    contents.text(field, std::string(rng() % 5 * 4, 'f'));
  } else if (rng() % 2 == 0) {
    contents.packed(field, {1, static_cast<std::int64_t>(rng() % 300), static_cast<std::int64_t>(rng())});
  } else {
    for (int i = 0; i < 3; ++i) contents.choice(field, rng() % 256);
  }
  return contents;
}

Writer infer_request(Rng& rng) {
  static constexpr const char* kTypes[] = {"BOOL",  "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16",
                                           "INT32", "INT64", "FP16",   "BF16",   "FP32",   "FP64", "BYTES"};
  Writer request;
  request.text(1, "nanodet");
  if (rng() % 2 == 0) request.text(2, std::to_string(rng() % 3));
  request.text(3, "id");
  request.message(4, parameter("priority", 5, rng() % 5));
  request.message(4, parameter("timeout", 2, rng() % 2 == 0 ? 5000 : rng()));
  request.message(4, parameter("sequence_id", rng() % 2 == 0 ? 2 : 5, rng() % 3));
  request.message(4, parameter("sequence_start", 1, rng() % 2));
  request.message(4, parameter(rng() % 8 == 0 ? "triton_x" : "temperature", 4, rng()));
  const bool raw = rng() % 2 == 0;
  for (std::uint64_t i = 0; i < 1 + rng() % 3; ++i) {
    Writer tensor;
    tensor.text(1, "frame");
    tensor.text(2, kTypes[rng() % 14]);
    tensor.packed(3, {1, static_cast<std::int64_t>(rng() % 5), rng() % 16 == 0 ? std::int64_t{1} << 40 : 3});
    const bool shared = rng() % 4 == 0;
    if (shared) add_region(tensor, 4, rng);
    if (!raw && !shared) tensor.message(5, infer_contents(rng));
    request.message(5, tensor);
    if (raw && !shared) request.text(7, std::string(rng() % 40, 'p'));
  }
  Writer output;
  output.text(1, "boxes");
  if (rng() % 2 == 0) output.message(2, parameter("classification", 2, rng() % 4));
  if (rng() % 2 == 0) add_region(output, 2, rng);
  request.message(6, output);
  return request;
}

// A tensor of BYTES behind its number of elements, now and then one short.
std::string elements(Rng& rng) {
  const auto count = rng() % 5;
  std::string out(1, static_cast<char>(count + (rng() % 8 == 0 ? 1 : 0)));
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto size = rng() % 6;
    out += std::string(1, static_cast<char>(size)) + std::string(3 + size, '\0');
  }
  return out;
}

// Registers a region before anything else is done with it.
std::string region_operations(Rng& rng) {
  std::string out("\0\0\0\x40", 4);
  for (std::uint64_t i = rng() % 12; i > 0; --i) {
    for (const auto bound : {5, 2, 66, 66}) out += static_cast<char>(rng() % static_cast<std::uint64_t>(bound));
  }
  return out;
}

}  // namespace

std::vector<std::uint8_t> valid_input(Rng& rng) {
  const auto target = rng() % 10;
  std::string text;
  if (target < 4) {
    const auto request = (target & 2U) != 0 ? infer_request(rng) : predict_request(rng);
    Writer stream;
    stream.message(1, request);
    text = target == 1 ? stream.str() : request.str();
  } else if (target == 4) {
    text = predict_request(rng).str();
    std::string operations(text.size(), '\0');
    for (auto& operation : operations) operation = static_cast<char>(rng());
    text = operations + text;
  } else {
    using Make = std::string (*)(Rng&);
    static constexpr Make kMakes[] = {elements, region_operations, valid_messages, valid_metadata, valid_session};
    text = kMakes[target - 5](rng);
  }
  std::vector<std::uint8_t> out{static_cast<std::uint8_t>(target), static_cast<std::uint8_t>(rng())};
  out.insert(out.end(), text.begin(), text.end());
  return out;
}

}  // namespace starling::fuzz
