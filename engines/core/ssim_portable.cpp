// Structural similarity with pairs of 16-byte vectors: what every 64-bit CPU has.
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define STARLING_INLINE [[gnu::always_inline]] inline

namespace starling {
namespace {

using U8x16 = std::uint8_t __attribute__((vector_size(16)));
using I16x8 = std::int16_t __attribute__((vector_size(16)));
using I32x4 = std::int32_t __attribute__((vector_size(16)));
using U32x4 = std::uint32_t __attribute__((vector_size(16)));
using F32x4 = float __attribute__((vector_size(16)));

struct Pairs {
  I16x8 low, high;
};
struct Counts {
  I32x4 low, high;
};
struct Reals {
  F32x4 low, high;
};
struct Totals {
  double lanes[8];
};

STARLING_INLINE Pairs operator+(const Pairs& a, const Pairs& b) { return {a.low + b.low, a.high + b.high}; }
STARLING_INLINE Pairs operator-(const Pairs& a, const Pairs& b) { return {a.low - b.low, a.high - b.high}; }
STARLING_INLINE Counts operator+(const Counts& a, const Counts& b) { return {a.low + b.low, a.high + b.high}; }
STARLING_INLINE Counts operator-(const Counts& a, const Counts& b) { return {a.low - b.low, a.high - b.high}; }
STARLING_INLINE Reals operator+(const Reals& a, const Reals& b) { return {a.low + b.low, a.high + b.high}; }
STARLING_INLINE Reals operator+(const Reals& a, float b) { return {a.low + b, a.high + b}; }
STARLING_INLINE Reals operator*(const Reals& a, const Reals& b) { return {a.low * b.low, a.high * b.high}; }
STARLING_INLINE Reals operator/(const Reals& a, const Reals& b) { return {a.low / b.low, a.high / b.high}; }
STARLING_INLINE Reals operator&(const Reals& a, const Counts& b) {
  return {(F32x4)((I32x4)a.low & b.low), (F32x4)((I32x4)a.high & b.high)};
}

STARLING_INLINE Reals to_reals(const Counts& a) {
  return {__builtin_convertvector(a.low, F32x4), __builtin_convertvector(a.high, F32x4)};
}

STARLING_INLINE Pairs times_49(const Pairs& a) {
  const I16x8 n = {49, 49, 49, 49, 49, 49, 49, 49};
  return {a.low * n, a.high * n};
}

STARLING_INLINE I16x8 swapped(const I16x8& a) { return (I16x8)(((U32x4)a << 16) | ((U32x4)a >> 16)); }
STARLING_INLINE Pairs swapped(const Pairs& a) { return {swapped(a.low), swapped(a.high)}; }

STARLING_INLINE I32x4 multiply_add(const I16x8& a, const I16x8& b) {
#if defined(__SSE2__)
  return (I32x4)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  const auto x = (I32x4)a;
  const auto y = (I32x4)b;
  return (((I32x4)((U32x4)x << 16)) >> 16) * (((I32x4)((U32x4)y << 16)) >> 16) + (x >> 16) * (y >> 16);
#endif
}
STARLING_INLINE Counts multiply_add(const Pairs& a, const Pairs& b) {
  return {multiply_add(a.low, b.low), multiply_add(a.high, b.high)};
}

STARLING_INLINE I16x8 interleave_low(const U8x16& a, const U8x16& b) {
  return (I16x8)__builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
STARLING_INLINE I16x8 interleave_high(const U8x16& a, const U8x16& b) {
  return (I16x8)__builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
STARLING_INLINE I16x8 interleave_low(const I16x8& a, const I16x8& b) {
  return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
}
STARLING_INLINE I16x8 interleave_high(const I16x8& a, const I16x8& b) {
  return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
}
STARLING_INLINE Pairs interleave_low(const Pairs& a, const Pairs& b) {
  return {interleave_low(a.low, b.low), interleave_low(a.high, b.high)};
}
STARLING_INLINE Pairs interleave_high(const Pairs& a, const Pairs& b) {
  return {interleave_high(a.low, b.low), interleave_high(a.high, b.high)};
}

// Sixteen pixels of both images as sixteen (x, y) byte pairs.
STARLING_INLINE Pairs load_pairs(const std::uint8_t* x, const std::uint8_t* y) {
  U8x16 a;
  U8x16 b;
  std::memcpy(&a, x, sizeof(a));
  std::memcpy(&b, y, sizeof(b));
  return {interleave_low(a, b), interleave_high(a, b)};
}

// Eight byte pairs as eight pairs of 16 bits. Interleaving with zeros widens on a little-endian CPU.
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "tensors are little-endian on the wire and in memory");
STARLING_INLINE Pairs widen(const I16x8& a) {
  return {interleave_low((U8x16)a, U8x16{}), interleave_high((U8x16)a, U8x16{})};
}
STARLING_INLINE Pairs widen_low(const Pairs& a) { return widen(a.low); }
STARLING_INLINE Pairs widen_high(const Pairs& a) { return widen(a.high); }

STARLING_INLINE void add(Totals& totals, const Reals& a) {
  for (int i = 0; i < 4; ++i) {
    totals.lanes[i] += static_cast<double>(a.low[i]);
    totals.lanes[4 + i] += static_cast<double>(a.high[i]);
  }
}

}  // namespace
}  // namespace starling

#include "ssim_kernel.h"

namespace starling {

double ssim_portable(const std::uint8_t* a, const std::uint8_t* b, std::size_t height, std::size_t width) {
  return mean_similarity(a, b, height, width);
}

}  // namespace starling
