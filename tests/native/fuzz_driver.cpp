// Drives the fuzz entry point without libFuzzer: mutates valid requests for a bounded time, seeded and replayable.
// usage: fuzz_wire [--seconds N] [--seed N] | fuzz_wire FILE...
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>

#include "predict_codec.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

using starling::wire::Writer;
using Bytes = std::vector<std::uint8_t>;
using Rng = std::mt19937_64;

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
  if (field >= 6) {
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

// Two bytes that choose the parser and the pieces, then the message.
Bytes valid_request(Rng& rng) {
  const bool infer = rng() % 2 == 0;
  const auto request = infer ? infer_request(rng) : predict_request(rng);
  Writer stream;
  stream.message(1, request);
  const bool wrap = rng() % 2 == 0;
  const auto text = wrap && !infer ? stream.str() : request.str();
  Bytes out(2 + text.size());
  out[0] = static_cast<std::uint8_t>((wrap ? 1 : 0) | (infer ? 2 : 0));
  out[1] = static_cast<std::uint8_t>(rng());
  std::memcpy(out.data() + 2, text.data(), text.size());
  return out;
}

void mutate(Bytes& bytes, Rng& rng) {
  for (std::uint64_t n = rng() % 6; n > 0 && bytes.size() > 2; --n) {
    const auto at = 2 + rng() % (bytes.size() - 2);
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (rng() % 6) {
      case 0:
        bytes[at] = static_cast<std::uint8_t>(rng());
        break;
      case 1:
        bytes[at] ^= static_cast<std::uint8_t>(1U << (rng() % 8));
        break;
      case 2:
        bytes.erase(place);
        break;
      case 3:
        bytes.insert(place, static_cast<std::uint8_t>(rng() % 2 == 0 ? 0xFF : 0x80));
        break;
      case 4:
        bytes.resize(at);
        break;
      default: {
        const Bytes again(bytes.begin() + 2, bytes.end());
        bytes.insert(place, again.begin(), again.end());
        if (bytes.size() > 4096) bytes.resize(4096);
      }
    }
  }
}

void run(const Bytes& bytes) {
  // An allocation of the exact size, so that reading one byte too many is seen.
  const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[bytes.size()]);
  std::memcpy(exact.get(), bytes.data(), bytes.size());
  LLVMFuzzerTestOneInput(exact.get(), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  double seconds = 10;
  std::uint64_t seed = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
      seconds = std::strtod(argv[++i], nullptr);
    } else if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::ifstream file(argv[i], std::ios::binary);
      run(Bytes{std::istreambuf_iterator<char>(file), {}});
      return 0;
    }
  }
  Rng rng(seed);
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::uint64_t runs = 0;
  while (std::chrono::steady_clock::now() < until) {
    for (int i = 0; i < 256; ++i, ++runs) {
      auto bytes = valid_request(rng);
      mutate(bytes, rng);
      run(bytes);
    }
  }
  std::printf("fuzz_wire: %llu inputs, seed %llu, no failure\n", static_cast<unsigned long long>(runs),
              static_cast<unsigned long long>(seed));
}
