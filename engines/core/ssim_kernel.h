// The structural-similarity loop, written once for every instruction set.
//
// Each ssim_<set>.cpp first defines the vector types named here for its instruction set, then includes this file;
// everything has internal linkage, so code for different sets never mixes.
//
// A row is cut into eight segments of equal length, one per lane: vector k holds the k-th column of every segment.
// So the window slides along the row by whole vectors, and a window sum costs one addition and one subtraction
// instead of seven unaligned loads. Segments overlap by the window, and windows past the end of the row are masked.
//
// All sums stay in 32 bits: a window has 49 pixels, and the largest number is 49 * 49 * 2 * 255^2 = 312 181 050.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace starling {
namespace {

constexpr std::size_t kWindow = 7;
constexpr std::size_t kLanes = 8;
constexpr std::size_t kBlock = 16;      // columns that spread() turns at once
constexpr std::size_t kFloatRun = 8;    // windows a lane adds up in float before it goes on in double
constexpr std::size_t kRingRows = 8;    // rows of the window and the one that leaves it
constexpr float kC1 = 6.5025F * 2401;   // (0.01 * 255)^2, times 49 * 49 because both means are left as sums
constexpr float kC2 = 58.5225F * 2352;  // (0.03 * 255)^2, times 49 * 48 because the variances are

// Sums over seven rows of one column, or over a whole window, of pixels x of one image and y of the other.
struct alignas(32) Column {
  Pairs sums;       // (sum x, sum y)
  Counts squares;   // 49 * sum (x^2 + y^2)
  Counts products;  // 49 * sum 2 x y
};

struct alignas(32) PixelPairs {
  Pairs values;  // (x, y)
};

struct alignas(32) Mask {
  Counts bits;  // all ones where the lane has a window
};

// Member by member: GCC 12 copies a whole Column in 16-byte steps, which doubles the time.
STARLING_INLINE void add_to(Column& window, const Column& column) {
  window.sums = window.sums + column.sums;
  window.squares = window.squares + column.squares;
  window.products = window.products + column.products;
}

STARLING_INLINE void take_from(Column& window, const Column& column) {
  window.sums = window.sums - column.sums;
  window.squares = window.squares - column.squares;
  window.products = window.products - column.products;
}

// Interleaving the first half with the second, three times, transposes eight rows of eight.
STARLING_INLINE void interleave_halves(const Pairs* from, Pairs* to) {
  for (std::size_t j = 0; j < kLanes / 2; ++j) {
    to[2 * j] = interleave_low(from[j], from[j + kLanes / 2]);
    to[2 * j + 1] = interleave_high(from[j], from[j + kLanes / 2]);
  }
}

// Brings one row of both images from image order into lane order.
STARLING_INLINE void spread(const std::uint8_t* x, const std::uint8_t* y, std::size_t length, std::size_t columns,
                            PixelPairs* out) {
  for (std::size_t k = 0; k < columns; k += kBlock) {
    Pairs rows[kLanes];
    Pairs turned[kLanes];
    for (std::size_t j = 0; j < kLanes; ++j) rows[j] = load_pairs(x + j * length + k, y + j * length + k);
    interleave_halves(rows, turned);
    interleave_halves(turned, rows);
    interleave_halves(rows, turned);
    for (std::size_t j = 0; j < kLanes; ++j) {
      out[k + j].values = widen_low(turned[j]);
      out[k + kLanes + j].values = widen_high(turned[j]);
    }
  }
}

// `in` enters the column and `out` leaves it: in^2 - out^2 = (in - out) (in + out), and
// 2 (in_x in_y - out_x out_y) = (in_x - out_x) (in_y + out_y) + (in_y - out_y) (in_x + out_x).
STARLING_INLINE void move_down(Column& column, const PixelPairs& in, const PixelPairs& out) {
  const Pairs change = in.values - out.values;
  const Pairs both = times_49(in.values + out.values);  // at most 49 * 510 < 2^15
  column.sums = column.sums + change;
  column.squares = column.squares + multiply_add(change, both);
  column.products = column.products + multiply_add(change, swapped(both));
}

// Eq. 13 with numerator and denominator multiplied by 49 * 49 * 49 * 48; both are the same number when x == y.
STARLING_INLINE Reals similarity(const Column& window) {
  const Counts squared_sums = multiply_add(window.sums, window.sums);
  const Counts crossed_sums = multiply_add(window.sums, swapped(window.sums));
  const Reals alike = (to_reals(crossed_sums) + kC1) * (to_reals(window.products - crossed_sums) + kC2);
  return alike / ((to_reals(squared_sums) + kC1) * (to_reals(window.squares - squared_sums) + kC2));
}

// Moves every column one row down.
STARLING_INLINE void next_row(const PixelPairs* __restrict in, const PixelPairs* __restrict out, std::size_t count,
                              Column* __restrict columns) {
  for (std::size_t k = 0; k < count; ++k) move_down(columns[k], in[k], out[k]);
}

// Adds the similarity of every window that the columns form to `totals`.
STARLING_INLINE void score_row(const Column* __restrict columns, const Mask* __restrict masks, std::size_t length,
                               Totals& totals) {
  Column window{};
  for (std::size_t k = 0; k < kWindow - 1; ++k) add_to(window, columns[k]);
  for (std::size_t k = 0; k < length;) {
    const auto end = std::min(length, k + kFloatRun);
    Reals partial{};
    for (; k < end; ++k) {
      add_to(window, columns[k + kWindow - 1]);
      partial = partial + (similarity(window) & masks[k].bits);
      take_from(window, columns[k]);
    }
    add(totals, partial);
  }
}

void fill_masks(std::size_t windows, std::size_t length, Mask* masks) {
  for (std::size_t k = 0; k < length; ++k) {
    std::int32_t bits[kLanes];
    for (std::size_t j = 0; j < kLanes; ++j) bits[j] = j * length + k < windows ? -1 : 0;
    static_assert(sizeof(bits) == sizeof(Mask));
    std::memcpy(&masks[k], bits, sizeof(bits));
  }
}

// Memory for vectors. The library must not see their types: it is compiled for every CPU.
struct alignas(32) Block {
  std::uint8_t bytes[32];
};

double mean_similarity(const std::uint8_t* x, const std::uint8_t* y, std::size_t height, std::size_t width) {
  const std::size_t windows = width - (kWindow - 1);
  const std::size_t length = (windows + kLanes - 1) / kLanes;
  const std::size_t columns_used = (length + kWindow - 1 + kBlock - 1) / kBlock * kBlock;
  constexpr std::size_t kColumnBlocks = sizeof(Column) / sizeof(Block);
  std::vector<Block> memory((kRingRows + kColumnBlocks) * columns_used + length);  // zeros
  auto* const columns = reinterpret_cast<Column*>(memory.data());
  auto* const masks = reinterpret_cast<Mask*>(memory.data() + kColumnBlocks * columns_used);
  auto* const ring = reinterpret_cast<PixelPairs*>(memory.data() + kColumnBlocks * columns_used + length);
  fill_masks(windows, length, masks);
  // Copies of the current rows with room to read behind their end.
  std::vector<std::uint8_t> row_x((kLanes - 1) * length + columns_used);
  std::vector<std::uint8_t> row_y(row_x.size());
  Totals totals{};
  for (std::size_t r = 0; r < height; ++r) {
    std::memcpy(row_x.data(), x + r * width, width);
    std::memcpy(row_y.data(), y + r * width, width);
    auto* in = ring + r % kRingRows * columns_used;
    const auto* out = ring + (r + 1) % kRingRows * columns_used;  // row r - 7, or still zero
    spread(row_x.data(), row_y.data(), length, columns_used, in);
    next_row(in, out, length + kWindow - 1, columns);
    if (r >= kWindow - 1) score_row(columns, masks, length, totals);
  }
  double lanes[kLanes];
  static_assert(sizeof(lanes) == sizeof(totals));
  std::memcpy(lanes, &totals, sizeof(lanes));
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total / (static_cast<double>(height - (kWindow - 1)) * static_cast<double>(windows));
}

}  // namespace
}  // namespace starling
