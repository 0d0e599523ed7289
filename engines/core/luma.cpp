#include "luma.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "ssim.h"

namespace starling {
namespace {

constexpr std::int64_t kChannels = 3;
constexpr std::size_t kRowsAtOnce = 4;
constexpr std::uint32_t kBlue = 29;
constexpr std::uint32_t kGreen = 150;
constexpr std::uint32_t kRed = 77;

// Hands out rows of a frame that lies in pieces; copies only those that cross from one piece into the next.
class RowReader {
 public:
  RowReader(const Spans& pieces, std::size_t row_bytes) : piece_(pieces.begin()), row_bytes_(row_bytes) {}

  // `slot` < kRowsAtOnce; the row is valid until the slot's next one.
  const std::uint8_t* next(std::size_t slot) {
    skip_empty();
    if (piece_->size() - offset_ >= row_bytes_) {
      const auto* row = piece_->data() + offset_;
      offset_ += row_bytes_;
      return row;
    }
    auto& row = crossing_[slot];
    row.resize(row_bytes_);
    for (std::size_t filled = 0; filled < row_bytes_;) {
      skip_empty();
      const auto n = std::min(row_bytes_ - filled, piece_->size() - offset_);
      std::memcpy(row.data() + filled, piece_->data() + offset_, n);
      filled += n;
      offset_ += n;
    }
    return row.data();
  }

 private:
  void skip_empty() {
    while (offset_ == piece_->size()) {
      ++piece_;
      offset_ = 0;
    }
  }

  Spans::const_iterator piece_;
  std::size_t offset_ = 0;
  std::size_t row_bytes_;
  std::array<std::vector<std::uint8_t>, kRowsAtOnce> crossing_;
};

// floor((sum + divisor / 2) / divisor) as a multiplication; exact while the quotient fits a byte and
// divisor <= 2^24, because then sum * divisor < 2^56.
class Divider {
 public:
  explicit Divider(std::uint64_t divisor) : half_(divisor / 2), reciprocal_((std::uint64_t{1} << 56) / divisor + 1) {}
  std::uint8_t operator()(std::uint32_t sum) const noexcept {
    return static_cast<std::uint8_t>(((sum + half_) * reciprocal_) >> 56);
  }

 private:
  std::uint64_t half_;
  std::uint64_t reciprocal_;
};

struct Boxes {
  std::size_t rows = 1;     // frame rows in one box
  std::size_t columns = 1;  // frame columns in one box
};

// The loops below are plain so that the compiler vectorises them for the caller's instruction set.
#define STARLING_INLINE [[gnu::always_inline]] inline

STARLING_INLINE void add_four_rows(const std::array<const std::uint8_t*, kRowsAtOnce>& rows,
                                   std::uint16_t* __restrict sums, std::size_t n) {
  const auto* a = rows[0];
  const auto* b = rows[1];
  const auto* c = rows[2];
  const auto* d = rows[3];
  for (std::size_t i = 0; i < n; ++i) sums[i] = static_cast<std::uint16_t>(sums[i] + a[i] + b[i] + c[i] + d[i]);
}

STARLING_INLINE void add_row(const std::uint8_t* row, std::uint16_t* __restrict sums, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) sums[i] = static_cast<std::uint16_t>(sums[i] + row[i]);
}

STARLING_INLINE void weigh(const std::uint16_t* sums, std::uint32_t* __restrict luma, std::size_t width) {
  for (std::size_t i = 0; i < width; ++i) {
    luma[i] = kBlue * sums[3 * i] + kGreen * sums[3 * i + 1] + kRed * sums[3 * i + 2];
  }
}

// A constant box width lets the compiler vectorise across boxes; 4 is that of a 416-pixel frame.
template <std::size_t kColumns>
STARLING_INLINE void fold(const std::uint32_t* luma, std::size_t width, std::size_t columns, const Divider& full,
                          std::uint8_t* __restrict out) {
  const auto step = kColumns != 0 ? kColumns : columns;
  const auto whole = width / step;
  for (std::size_t i = 0; i < whole; ++i) {
    std::uint32_t sum = 0;
    for (std::size_t j = 0; j < step; ++j) sum += luma[i * step + j];
    out[i] = full(sum);
  }
}

STARLING_INLINE void shrink(RowReader& frame, const Boxes& boxes, Luma& out) {
  const auto width = static_cast<std::size_t>(out.frame_width);
  const auto height = static_cast<std::size_t>(out.frame_height);
  std::vector<std::uint16_t> sums(width * kChannels);
  std::vector<std::uint32_t> luma(width);
  auto* target = out.pixels.data();
  for (std::size_t top = 0; top < height; top += boxes.rows) {
    const auto rows = std::min(boxes.rows, height - top);
    std::fill(sums.begin(), sums.end(), std::uint16_t{0});
    std::size_t r = 0;
    for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce) {
      std::array<const std::uint8_t*, kRowsAtOnce> four{};
      for (std::size_t i = 0; i < kRowsAtOnce; ++i) four[i] = frame.next(i);
      add_four_rows(four, sums.data(), sums.size());
    }
    for (; r < rows; ++r) add_row(frame.next(0), sums.data(), sums.size());
    weigh(sums.data(), luma.data(), width);
    const Divider full(256 * rows * boxes.columns);
    if (boxes.columns == 4) {
      fold<4>(luma.data(), width, 4, full, target);
    } else {
      fold<0>(luma.data(), width, boxes.columns, full, target);
    }
    if (const auto rest = width % boxes.columns; rest != 0) {
      std::uint32_t sum = 0;
      for (std::size_t i = width - rest; i < width; ++i) sum += luma[i];
      target[out.width - 1] = Divider(256 * rows * rest)(sum);
    }
    target += out.width;
  }
}

#undef STARLING_INLINE

#if defined(__x86_64__)
[[gnu::target("avx2")]] void shrink_avx2(RowReader& frame, const Boxes& boxes, Luma& out) { shrink(frame, boxes, out); }
#endif

void shrink_portable(RowReader& frame, const Boxes& boxes, Luma& out) { shrink(frame, boxes, out); }

auto* best_shrink() noexcept {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return &shrink_avx2;
#endif
  return &shrink_portable;
}

}  // namespace

std::optional<Luma> small_luma(const Spans& frame, std::int64_t height, std::int64_t width) {
  if (std::min(height, width) < kSsimWindow || std::max(height, width) > kFrameEdgeMax) return std::nullopt;
  std::uint64_t size = 0;
  for (const auto piece : frame) size += piece.size();
  if (size != static_cast<std::uint64_t>(height * width * kChannels)) return std::nullopt;

  const auto rows = (height + kLumaEdgeMax - 1) / kLumaEdgeMax;
  const auto columns = (width + kLumaEdgeMax - 1) / kLumaEdgeMax;
  Luma luma{height, width, (height + rows - 1) / rows, (width + columns - 1) / columns, {}};
  luma.pixels.resize(static_cast<std::size_t>(luma.height * luma.width));
  RowReader reader(frame, static_cast<std::size_t>(width * kChannels));
  static auto* const shrink_here = best_shrink();
  shrink_here(reader, {static_cast<std::size_t>(rows), static_cast<std::size_t>(columns)}, luma);
  return luma;
}

}  // namespace starling
