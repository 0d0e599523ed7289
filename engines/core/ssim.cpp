#include "ssim.h"

#include <array>

#include "status.h"

namespace starling {

double ssim_portable(const std::uint8_t* a, const std::uint8_t* b, std::size_t height, std::size_t width);
double ssim_avx2(const std::uint8_t* a, const std::uint8_t* b, std::size_t height, std::size_t width);

std::span<const SsimKernel> ssim_kernels() noexcept {
#if defined(__x86_64__)
  static constexpr std::array<SsimKernel, 2> kKernels{ssim_portable, ssim_avx2};
  static const std::size_t count = __builtin_cpu_supports("avx2") ? 2 : 1;
#else
  static constexpr std::array<SsimKernel, 1> kKernels{ssim_portable};
  static const std::size_t count = 1;
#endif
  return {kKernels.data(), count};
}

double ssim(const LumaView& a, const LumaView& b) {
  if (a.height != b.height || a.width != b.width) {
    throw Error(Reason::kInvalidInput, "ssim compares images of one shape, got " + to_string(Shape{a.height, a.width}) +
                                           " and " + to_string(Shape{b.height, b.width}) + "; resize one of them");
  }
  if (a.height < kSsimWindow || a.width < kSsimWindow) {
    throw Error(Reason::kInvalidInput, "ssim wants images of at least [7, 7], got " +
                                           to_string(Shape{a.height, a.width}) + "; compare the bytes instead");
  }
  return ssim_kernels().back()(a.pixels, b.pixels, static_cast<std::size_t>(a.height),
                               static_cast<std::size_t>(a.width));
}

}  // namespace starling
