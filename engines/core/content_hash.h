// A keyed 122-bit fingerprint of bytes, with a proven bound on collisions.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace starling {

struct ContentHash {
  std::uint64_t first = 0;
  std::uint64_t second = 0;

  bool operator==(const ContentHash&) const = default;
};

// Secret numbers that choose one hash out of the family. Draw `seed` at random for each process, so that a client
// cannot prepare inputs that collide.
struct ContentKeys {
  static constexpr std::size_t kBlockWords = 128;

  explicit ContentKeys(std::uint64_t seed) noexcept;

  std::array<std::uint64_t, kBlockWords + 2> block;  // the second hash reads it two words further on
  std::array<std::uint64_t, 2> point;                // below 2^61 - 1
};

// Hashes a message that comes in pieces; the pieces' borders do not matter.
//
// Two hashes of the same construction with independent keys: blocks of 1 KiB go through NH (Black et al. 1999, UMAC;
// here with 64-bit words, shifted keys for the second hash), then the results and the length through a polynomial
// modulo 2^61 - 1 (Carter and Wegman 1979). Two different messages of at most n KiB have equal hashes with probability
// at most (2^-64 + (3 n + 4) / 2^61)^2 over the keys: 2^-99 for 1 MiB, 2^-116 for 1 KiB.
class ContentHasher {
 public:
  explicit ContentHasher(const ContentKeys& keys) noexcept : keys_(keys) {}

  void add(std::span<const std::uint8_t> bytes) noexcept;
  void add(std::uint64_t word) noexcept;

  // Call once, at the end.
  ContentHash finish() noexcept;

 private:
  static constexpr std::size_t kBlockBytes = ContentKeys::kBlockWords * sizeof(std::uint64_t);

  void absorb(const std::uint8_t* bytes, std::size_t words) noexcept;

  const ContentKeys& keys_;
  std::array<std::uint64_t, 2> sums_{};
  std::uint64_t length_ = 0;
  std::size_t filled_ = 0;
  std::array<std::uint8_t, kBlockBytes> block_;
};

}  // namespace starling
