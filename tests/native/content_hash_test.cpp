#include "content_hash.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <set>
#include <vector>

namespace starling {
namespace {

using Bytes = std::vector<std::uint8_t>;

ContentHash hash(const ContentKeys& keys, const Bytes& bytes) {
  ContentHasher hasher(keys);
  hasher.add(bytes);
  return hasher.finish();
}

Bytes noise(std::size_t n, std::mt19937& rng) {
  Bytes bytes(n);
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(rng());
  return bytes;
}

// Both halves on their own: each must tell the messages apart.
struct Seen {
  std::set<std::uint64_t> first, second;
  bool add(const ContentHash& h) { return first.insert(h.first).second && second.insert(h.second).second; }
};

TEST(ContentHash, BordersOfPiecesDoNotMatter) {
  const ContentKeys keys(1);
  std::mt19937 rng(1);  // NOLINT: replayable
  for (const std::size_t n : {0U, 1U, 15U, 16U, 17U, 1023U, 1024U, 1025U, 5000U}) {
    const auto bytes = noise(n, rng);
    const auto whole = hash(keys, bytes);
    for (const unsigned longest : {1U, 7U, 1000U, 3000U}) {
      ContentHasher hasher(keys);
      for (std::size_t at = 0; at < n;) {
        const auto piece = std::min<std::size_t>(n - at, rng() % (longest + 1));
        hasher.add({bytes.data() + at, piece});
        at += piece;
      }
      EXPECT_EQ(hasher.finish(), whole) << n << " bytes in pieces of " << longest;
    }
  }
}

TEST(ContentHash, EveryBitCounts) {
  const ContentKeys keys(2);
  std::mt19937 rng(2);  // NOLINT: replayable
  auto bytes = noise(2100, rng);
  Seen seen;
  EXPECT_TRUE(seen.add(hash(keys, bytes)));
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<std::uint8_t>(1U << bit % 8);
    EXPECT_TRUE(seen.add(hash(keys, bytes))) << bit;
    bytes[bit / 8] ^= static_cast<std::uint8_t>(1U << bit % 8);
  }
}

TEST(ContentHash, LengthCounts) {
  const ContentKeys keys(3);
  Seen seen;
  for (std::size_t n = 0; n < 3000; ++n) EXPECT_TRUE(seen.add(hash(keys, Bytes(n)))) << n << " zeros";
}

TEST(ContentHash, OrderCounts) {
  const ContentKeys keys(4);
  std::mt19937 rng(4);  // NOLINT: replayable
  auto bytes = noise(4096, rng);
  Seen seen;
  EXPECT_TRUE(seen.add(hash(keys, bytes)));
  for (const std::size_t distance : {1U, 8U, 16U, 1024U, 2048U}) {  // bytes, words, pairs, blocks
    auto other = bytes;
    std::rotate(other.begin(), other.begin() + static_cast<std::ptrdiff_t>(distance), other.end());
    EXPECT_TRUE(seen.add(hash(keys, other))) << distance;
  }
}

TEST(ContentHash, TheSeedChoosesTheHash) {
  const Bytes bytes(100, 5);
  Seen seen;
  for (std::uint64_t seed = 0; seed < 100; ++seed) EXPECT_TRUE(seen.add(hash(ContentKeys(seed), bytes)));
  EXPECT_EQ(hash(ContentKeys(7), bytes), hash(ContentKeys(7), bytes));
}

}  // namespace
}  // namespace starling
