// Fuzzes without libFuzzer, for compilers that only say which block runs (-fsanitize-coverage=trace-pc): an input that
// runs a block for the first time, or more often than ever, is kept and mutated further. Seeded and replayable.
// usage: fuzz_wire [--seconds N] [--seed N] [FOLDER] | fuzz_wire FILE...
#include <array>
#include <bit>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>

#include "requests.h"
#include "targets.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" const char __executable_start;

namespace {

using starling::fuzz::Rng;
using Input = std::vector<std::uint8_t>;

constexpr std::size_t kInputMax = 512;  // small inputs are as strange as large ones, and quicker
constexpr std::size_t kPlaces = std::size_t{1} << 16U;

// How often each block ran in the present run, by a hash of its address; and the blocks that did.
std::array<std::uint32_t, kPlaces> counts;
std::array<std::uint32_t, kPlaces> touched;
std::size_t touched_count = 0;

// The powers of two that a block's counts have been in, one bit each.
std::array<std::uint32_t, kPlaces> seen;
std::size_t places_seen = 0;

// Forgets the run; true when it was like none before.
bool is_new() {
  bool fresh = false;
  for (std::size_t i = 0; i < touched_count; ++i) {
    const auto place = touched[i];
    const auto power = std::bit_floor(counts[place]);
    counts[place] = 0;
    fresh |= (seen[place] & power) == 0;
    places_seen += seen[place] == 0 ? 1 : 0;
    seen[place] |= power;
  }
  touched_count = 0;
  return fresh;
}

void run(const Input& input) {
  // An allocation of the exact size, so that reading one byte too many is seen.
  const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[input.size()]);
  std::memcpy(exact.get(), input.data(), input.size());
  LLVMFuzzerTestOneInput(exact.get(), input.size());
}

void mutate(Input& bytes, const std::vector<Input>& corpus, Rng& rng) {
  static constexpr std::uint8_t kEdges[] = {0, 1, 0x7F, 0x80, 0xFF};
  for (std::uint64_t n = rng() % 6; n > 0 && bytes.size() > 2; --n) {
    const auto at = 2 + rng() % (bytes.size() - 2);
    const auto place = bytes.begin() + static_cast<std::ptrdiff_t>(at);
    switch (rng() % 7) {
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
        bytes.insert(place, kEdges[rng() % std::size(kEdges)]);
        break;
      case 4:
        bytes.resize(at);
        break;
      case 5:
        bytes[at] = static_cast<std::uint8_t>(bytes[at] + rng() % 9 - 4);
        break;
      default: {
        const Input& other = corpus[rng() % corpus.size()];
        if (other.size() <= 2) break;
        const auto from = 2 + rng() % (other.size() - 2);
        const auto size = rng() % std::min<std::size_t>(other.size() - from, 64) + 1;
        bytes.insert(place, other.begin() + static_cast<std::ptrdiff_t>(from),
                     other.begin() + static_cast<std::ptrdiff_t>(from + size));
        bytes.resize(std::min(bytes.size(), kInputMax));
      }
    }
  }
}

Input read(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

// Called by every block of what is fuzzed; not by this file, which is compiled without.
extern "C" void __sanitizer_cov_trace_pc() {
  const auto address = static_cast<const char*>(__builtin_return_address(0)) - &__executable_start;
  const auto place = (static_cast<std::uint64_t>(address) * 0x9E3779B97F4A7C15U) >> 48U;
  if (counts[place]++ == 0) touched[touched_count++] = static_cast<std::uint32_t>(place);
}

int main(int argc, char** argv) {
  double seconds = 10;
  std::uint64_t seed = 1;
  std::vector<Input> corpus;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--seconds") == 0 && i + 1 < argc) {
      seconds = std::strtod(argv[++i], nullptr);
    } else if (std::strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (std::filesystem::is_directory(argv[i])) {
      for (const auto& entry : std::filesystem::directory_iterator(argv[i])) corpus.push_back(read(entry.path()));
    } else {
      run(read(argv[i]));
      seconds = 0;
    }
  }
  Rng rng(seed);
  for (const auto& input : corpus) run(input);
  is_new();
  std::uint64_t runs = corpus.size();
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (std::chrono::steady_clock::now() < until) {
    for (int i = 0; i < 256; ++i, ++runs) {
      auto input = corpus.empty() || rng() % 2 == 0 ? starling::fuzz::valid_input(rng) : corpus[rng() % corpus.size()];
      if (!corpus.empty()) mutate(input, corpus, rng);
      run(input);
      if (is_new()) corpus.push_back(std::move(input));
    }
  }
  std::printf("fuzz_wire: %llu inputs, %zu of them new, %zu blocks, seed %llu, no failure\n",
              static_cast<unsigned long long>(runs), corpus.size(), places_seen, static_cast<unsigned long long>(seed));
}
