// Structural similarity with 32-byte vectors; called only on a CPU that has them.
#if defined(__x86_64__)

#include <immintrin.h>

// The kernel's own includes come before the pragma: library code must stay callable on every CPU.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#define STARLING_INLINE [[gnu::always_inline]] inline

#pragma GCC push_options
#pragma GCC target("avx2")

namespace starling {
namespace {

struct Pairs {
  __m256i v;
};
struct Counts {
  __m256i v;
};
struct Reals {
  __m256 v;
};
struct Totals {
  __m256d low, high;
};

STARLING_INLINE Pairs operator+(const Pairs& a, const Pairs& b) { return {_mm256_add_epi16(a.v, b.v)}; }
STARLING_INLINE Pairs operator-(const Pairs& a, const Pairs& b) { return {_mm256_sub_epi16(a.v, b.v)}; }
STARLING_INLINE Counts operator+(const Counts& a, const Counts& b) { return {_mm256_add_epi32(a.v, b.v)}; }
STARLING_INLINE Counts operator-(const Counts& a, const Counts& b) { return {_mm256_sub_epi32(a.v, b.v)}; }
STARLING_INLINE Reals operator+(const Reals& a, const Reals& b) { return {_mm256_add_ps(a.v, b.v)}; }
STARLING_INLINE Reals operator+(const Reals& a, float b) { return {_mm256_add_ps(a.v, _mm256_set1_ps(b))}; }
STARLING_INLINE Reals operator*(const Reals& a, const Reals& b) { return {_mm256_mul_ps(a.v, b.v)}; }
STARLING_INLINE Reals operator/(const Reals& a, const Reals& b) { return {_mm256_div_ps(a.v, b.v)}; }
STARLING_INLINE Reals operator&(const Reals& a, const Counts& b) {
  return {_mm256_and_ps(a.v, _mm256_castsi256_ps(b.v))};
}

STARLING_INLINE Reals to_reals(const Counts& a) { return {_mm256_cvtepi32_ps(a.v)}; }
STARLING_INLINE Pairs times_49(const Pairs& a) { return {_mm256_mullo_epi16(a.v, _mm256_set1_epi16(49))}; }
STARLING_INLINE Counts multiply_add(const Pairs& a, const Pairs& b) { return {_mm256_madd_epi16(a.v, b.v)}; }

STARLING_INLINE Pairs swapped(const Pairs& a) {
  const __m256i order = _mm256_set_epi8(13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2,  //
                                        13, 12, 15, 14, 9, 8, 11, 10, 5, 4, 7, 6, 1, 0, 3, 2);
  return {_mm256_shuffle_epi8(a.v, order)};
}

// Both work inside the halves of the vector, as the portable ones do.
STARLING_INLINE Pairs interleave_low(const Pairs& a, const Pairs& b) { return {_mm256_unpacklo_epi16(a.v, b.v)}; }
STARLING_INLINE Pairs interleave_high(const Pairs& a, const Pairs& b) { return {_mm256_unpackhi_epi16(a.v, b.v)}; }

STARLING_INLINE __m256i load_widened(const std::uint8_t* pixels) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(pixels)));
}

// Sixteen pixels of both images as sixteen (x, y) byte pairs.
STARLING_INLINE Pairs load_pairs(const std::uint8_t* x, const std::uint8_t* y) {
  return {_mm256_or_si256(load_widened(x), _mm256_slli_epi16(load_widened(y), 8))};
}

// Eight byte pairs as eight pairs of 16 bits.
STARLING_INLINE Pairs widen_low(const Pairs& a) { return {_mm256_cvtepu8_epi16(_mm256_castsi256_si128(a.v))}; }
STARLING_INLINE Pairs widen_high(const Pairs& a) { return {_mm256_cvtepu8_epi16(_mm256_extracti128_si256(a.v, 1))}; }

STARLING_INLINE void add(Totals& totals, const Reals& a) {
  totals.low = _mm256_add_pd(totals.low, _mm256_cvtps_pd(_mm256_castps256_ps128(a.v)));
  totals.high = _mm256_add_pd(totals.high, _mm256_cvtps_pd(_mm256_extractf128_ps(a.v, 1)));
}

}  // namespace
}  // namespace starling

#include "ssim_kernel.h"

namespace starling {

double ssim_avx2(const std::uint8_t* a, const std::uint8_t* b, std::size_t height, std::size_t width) {
  return mean_similarity(a, b, height, width);
}

}  // namespace starling

#pragma GCC pop_options

#endif
