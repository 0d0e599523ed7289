#include "luma.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace starling {
namespace {

using Bytes = std::vector<std::uint8_t>;

std::int64_t box(std::int64_t edge) { return (edge + kLumaEdgeMax - 1) / kLumaEdgeMax; }

// The definition in luma.h, pixel by pixel.
Bytes slow_luma(const Bytes& frame, std::int64_t height, std::int64_t width) {
  Bytes out;
  for (std::int64_t top = 0; top < height; top += box(height)) {
    for (std::int64_t left = 0; left < width; left += box(width)) {
      std::uint64_t sum = 0;
      std::uint64_t n = 0;
      for (auto y = top; y < std::min(height, top + box(height)); ++y) {
        for (auto x = left; x < std::min(width, left + box(width)); ++x) {
          const auto* pixel = frame.data() + (y * width + x) * 3;
          sum += 29U * pixel[0] + 150U * pixel[1] + 77U * pixel[2];
          ++n;
        }
      }
      out.push_back(static_cast<std::uint8_t>((sum + 128 * n) / (256 * n)));
    }
  }
  return out;
}

Bytes noise(std::int64_t height, std::int64_t width, std::mt19937& rng) {
  Bytes frame(static_cast<std::size_t>(height * width * 3));
  for (auto& byte : frame) byte = static_cast<std::uint8_t>(rng());
  return frame;
}

Spans pieces_of(const Bytes& frame, std::size_t longest, std::mt19937& rng) {
  Spans pieces;
  for (std::size_t at = 0; at < frame.size();) {
    const auto n = std::min<std::size_t>(frame.size() - at, rng() % (longest + 1));  // sometimes empty
    pieces.emplace_back(frame.data() + at, n);
    at += n;
  }
  pieces.emplace_back();
  return pieces;
}

TEST(Luma, AveragesEveryPixelOnce) {
  std::mt19937 rng(1);  // NOLINT: replayable
  const std::vector<std::pair<std::int64_t, std::int64_t>> sizes{{7, 7},     {104, 104}, {105, 104}, {104, 105},
                                                                 {211, 209}, {416, 416}, {413, 415}, {480, 640},
                                                                 {8, 2000},  {2000, 8},  {33, 999}};
  for (const auto& [height, width] : sizes) {
    const auto frame = noise(height, width, rng);
    const auto luma = small_luma({{frame.data(), frame.size()}}, height, width);
    ASSERT_TRUE(luma) << height << "x" << width;
    EXPECT_EQ(luma->frame_height, height);
    EXPECT_EQ(luma->frame_width, width);
    EXPECT_EQ(luma->height, (height + box(height) - 1) / box(height));
    EXPECT_EQ(luma->width, (width + box(width) - 1) / box(width));
    EXPECT_LE(luma->height, kLumaEdgeMax);
    EXPECT_GE(luma->height, 7);
    EXPECT_EQ(luma->pixels, slow_luma(frame, height, width)) << height << "x" << width;
  }
}

TEST(Luma, PiecesMayEndAnywhere) {
  std::mt19937 rng(2);                                                                    // NOLINT: replayable
  const std::vector<std::pair<std::int64_t, std::int64_t>> sizes{{130, 211}, {500, 90}};  // boxes of 2 and of 5 rows
  for (const auto& [height, width] : sizes) {
    const auto frame = noise(height, width, rng);
    const auto expected = slow_luma(frame, height, width);
    for (const std::size_t longest : {1U, 2U, 5U, 100U, 633U, 4000U, 100000U}) {
      const auto luma = small_luma(pieces_of(frame, longest, rng), height, width);
      ASSERT_TRUE(luma);
      EXPECT_EQ(luma->pixels, expected) << longest;
    }
  }
}

TEST(Luma, ExtremesStayExact) {
  std::mt19937 rng(3);  // NOLINT: replayable
  const std::vector<std::pair<std::int64_t, std::int64_t>> sizes{{7, kFrameEdgeMax}, {kFrameEdgeMax, 7}, {300, 700}};
  for (const auto& [height, width] : sizes) {
    const Bytes white(static_cast<std::size_t>(height * width * 3), 255);
    const auto luma = small_luma({{white.data(), white.size()}}, height, width);
    ASSERT_TRUE(luma);
    EXPECT_TRUE(std::all_of(luma->pixels.begin(), luma->pixels.end(), [](auto pixel) { return pixel == 255; }));
    const auto frame = noise(height, width, rng);
    EXPECT_EQ(small_luma({{frame.data(), frame.size()}}, height, width)->pixels, slow_luma(frame, height, width));
  }
}

TEST(Luma, RefusesWhatCannotBeCompared) {
  const Bytes bytes(7 * 7 * 3);
  const Spans frame{{bytes.data(), bytes.size()}};
  EXPECT_TRUE(small_luma(frame, 7, 7));
  EXPECT_FALSE(small_luma(frame, 6, 8));
  EXPECT_FALSE(small_luma(frame, 7, 8)) << "too few bytes";
  EXPECT_FALSE(small_luma({}, 7, 7));
  EXPECT_FALSE(small_luma(frame, -7, -7));
  EXPECT_FALSE(small_luma(frame, 0, 0));
  EXPECT_FALSE(small_luma(frame, kFrameEdgeMax + 1, 7));
}

}  // namespace
}  // namespace starling
