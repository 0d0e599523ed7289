// The brightness of a frame, small: what the frame cache compares instead of the frame.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "request.h"

namespace starling {

// Borrowed brightness: uint8[height, width], contiguous.
struct LumaView {
  const std::uint8_t* pixels = nullptr;
  std::int64_t height = 0;
  std::int64_t width = 0;
};

// Small brightness of one frame, and the size of the frame it came from.
struct Luma {
  std::int64_t frame_height = 0;
  std::int64_t frame_width = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
  std::vector<std::uint8_t> pixels;  // uint8[height, width]

  LumaView view() const noexcept { return {pixels.data(), height, width}; }
};

// A quarter of the 416 pixels that detectors see. On a street video, whether two frames have the same boxes follows
// from their similarity at 52 to 208 pixels better than at full size, where noise that moves no box counts most and
// small moving things least. A smaller plane would not be cheaper: reading the frame dominates.
inline constexpr std::int64_t kLumaEdgeMax = 104;

// With larger frames a box sum would not fit 32 bits.
inline constexpr std::int64_t kFrameEdgeMax = kLumaEdgeMax * 256;

// Averages the frame over boxes of ceil(height / 104) x ceil(width / 104) pixels, so that each edge is at most
// kLumaEdgeMax; the last box of a row or column may be narrower, so every pixel counts.
//
// A box is (29 B + 150 G + 77 R) / 256 (ITU-R BT.601) summed over its n pixels, divided by n, halves up: exact
// integer arithmetic, the same on every CPU.
//
// Borrows `frame`, uint8[height, width, 3] BGR in pieces of any size. Nothing when the frame cannot be compared: an
// edge under kSsimWindow or over kFrameEdgeMax, or pieces that do not add up to its size. O(pixels).
std::optional<Luma> small_luma(const Spans& frame, std::int64_t height, std::int64_t width);

}  // namespace starling
