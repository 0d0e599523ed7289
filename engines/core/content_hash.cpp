#include "content_hash.h"

#include <algorithm>
#include <cstring>

namespace starling {
namespace {

__extension__ using Wide = unsigned __int128;

constexpr std::uint64_t kPrime = (std::uint64_t{1} << 61) - 1;
constexpr std::size_t kPairBytes = 2 * sizeof(std::uint64_t);

// Steele et al. 2014, SplitMix64.
std::uint64_t next_random(std::uint64_t& state) noexcept {
  state += 0x9E3779B97F4A7C15;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

std::uint64_t modulo_prime(Wide x) noexcept {
  const auto folded = static_cast<std::uint64_t>(x & kPrime) + static_cast<std::uint64_t>(x >> 61);
  return folded >= kPrime ? folded - kPrime : folded;
}

// One step of Horner's rule; all three below the prime, so the sum is below 2^122.
std::uint64_t step(std::uint64_t sum, std::uint64_t point, std::uint64_t term) noexcept {
  return modulo_prime(Wide{sum} * point + term);
}

}  // namespace

ContentKeys::ContentKeys(std::uint64_t seed) noexcept {
  for (auto& word : block) word = next_random(seed);
  for (auto& p : point) {
    do {
      p = next_random(seed) & kPrime;
    } while (p == kPrime);
  }
}

void ContentHasher::absorb(const std::uint8_t* bytes, std::size_t words) noexcept {
  Wide first = 0;
  Wide second = 0;
  for (std::size_t i = 0; i < words; i += 2) {
    std::uint64_t pair[2];
    std::memcpy(pair, bytes + i * sizeof(std::uint64_t), sizeof(pair));
    const auto* key = keys_.block.data() + i;
    first += Wide{pair[0] + key[0]} * (pair[1] + key[1]);
    second += Wide{pair[0] + key[2]} * (pair[1] + key[3]);
  }
  constexpr std::uint64_t kPart = (std::uint64_t{1} << 43) - 1;
  for (int shift = 0; shift < 128; shift += 43) {
    sums_[0] = step(sums_[0], keys_.point[0], static_cast<std::uint64_t>(first >> shift) & kPart);
    sums_[1] = step(sums_[1], keys_.point[1], static_cast<std::uint64_t>(second >> shift) & kPart);
  }
}

void ContentHasher::add(std::span<const std::uint8_t> bytes) noexcept {
  length_ += bytes.size();
  if (filled_ != 0) {
    const auto n = std::min(bytes.size(), kBlockBytes - filled_);
    if (n != 0) std::memcpy(block_.data() + filled_, bytes.data(), n);
    filled_ += n;
    bytes = bytes.subspan(n);
    if (filled_ < kBlockBytes) return;
    absorb(block_.data(), ContentKeys::kBlockWords);
    filled_ = 0;
  }
  for (; bytes.size() >= kBlockBytes; bytes = bytes.subspan(kBlockBytes)) {
    absorb(bytes.data(), ContentKeys::kBlockWords);
  }
  if (!bytes.empty()) std::memcpy(block_.data(), bytes.data(), bytes.size());
  filled_ = bytes.size();
}

void ContentHasher::add(std::uint64_t word) noexcept {
  std::uint8_t bytes[sizeof(word)];
  std::memcpy(bytes, &word, sizeof(word));
  add(bytes);
}

ContentHash ContentHasher::finish() noexcept {
  if (filled_ != 0) {
    const auto padded = (filled_ + kPairBytes - 1) / kPairBytes * kPairBytes;
    std::memset(block_.data() + filled_, 0, padded - filled_);
    absorb(block_.data(), padded / sizeof(std::uint64_t));
  }
  // Messages of different lengths differ in this term, those of equal length were padded equally.
  for (int i = 0; i < 2; ++i) sums_[i] = step(sums_[i], keys_.point[i], length_);
  return {sums_[0], sums_[1]};
}

}  // namespace starling
