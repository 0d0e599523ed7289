// Structural similarity of two images: how alike they look, window by window.
#pragma once

#include <cstddef>
#include <span>

#include "luma.h"

namespace starling {

inline constexpr std::int64_t kSsimWindow = 7;

// Mean structural similarity of two planes of the same shape, in [-1, 1]; exactly 1 when they are identical.
//
// Wang et al. 2004, eq. 13 averaged over every 7 x 7 window that lies inside, K1 = 0.01, K2 = 0.03, L = 255; uniform
// weights instead of their Gaussian, and variances with n - 1 as in their eq. 5 and 6. This is what
// skimage.metrics.structural_similarity(a, b) computes.
//
// The window sums are exact integers; what remains is the rounding of one float quotient a window, so the mean is
// within 1e-6 of real arithmetic, and the same bits on every CPU. O(pixels), any window size.
//
// Throws Error(kInvalidInput) when the shapes differ or an edge is shorter than the window.
double ssim(const LumaView& a, const LumaView& b);

// The ways this CPU can compute it, slowest first; they return the same bits, which a test checks.
// Both planes are uint8[height, width] with edges >= kSsimWindow.
using SsimKernel = double (*)(const std::uint8_t* a, const std::uint8_t* b, std::size_t height, std::size_t width);
std::span<const SsimKernel> ssim_kernels() noexcept;

}  // namespace starling
