#include "ssim.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "status.h"

namespace starling {
namespace {

using Image = std::vector<std::uint8_t>;

struct Size {
  std::int64_t height, width;
};

// Eq. 13 as it is written, one window after the other.
double slow_ssim(const Image& a, const Image& b, Size size) {
  constexpr double kN = 49;
  constexpr double kC1 = 0.01 * 255 * 0.01 * 255;
  constexpr double kC2 = 0.03 * 255 * 0.03 * 255;
  double total = 0;
  for (std::int64_t top = 0; top + 7 <= size.height; ++top) {
    for (std::int64_t left = 0; left + 7 <= size.width; ++left) {
      double x = 0;
      double y = 0;
      double xx = 0;
      double yy = 0;
      double xy = 0;
      for (int i = 0; i < 7; ++i) {
        for (int j = 0; j < 7; ++j) {
          const auto at = static_cast<std::size_t>((top + i) * size.width + left + j);
          x += a[at];
          y += b[at];
          xx += a[at] * a[at];
          yy += b[at] * b[at];
          xy += a[at] * b[at];
        }
      }
      const double mean_x = x / kN;
      const double mean_y = y / kN;
      const double var_x = (xx - x * mean_x) / (kN - 1);
      const double var_y = (yy - y * mean_y) / (kN - 1);
      const double covariance = (xy - x * mean_y) / (kN - 1);
      total += (2 * mean_x * mean_y + kC1) * (2 * covariance + kC2) /
               ((mean_x * mean_x + mean_y * mean_y + kC1) * (var_x + var_y + kC2));
    }
  }
  return total / static_cast<double>((size.height - 6) * (size.width - 6));
}

Image constant(Size size, std::uint8_t value) {
  return Image(static_cast<std::size_t>(size.height * size.width), value);
}

Image noise(Size size, std::mt19937& rng) {
  Image image = constant(size, 0);
  for (auto& pixel : image) pixel = static_cast<std::uint8_t>(rng());
  return image;
}

Image waves(Size size) {
  Image image = constant(size, 0);
  for (std::int64_t y = 0; y < size.height; ++y) {
    for (std::int64_t x = 0; x < size.width; ++x) {
      image[static_cast<std::size_t>(y * size.width + x)] = static_cast<std::uint8_t>(
          128 + 70 * std::sin(static_cast<double>(x) * 0.13) + 50 * std::cos(static_cast<double>(y) * 0.07));
    }
  }
  return image;
}

Image blurred(const Image& image, int amount, std::mt19937& rng) {
  Image out = image;
  for (auto& pixel : out) {
    const int change = static_cast<int>(rng() % static_cast<unsigned>(2 * amount + 1)) - amount;
    pixel = static_cast<std::uint8_t>(std::clamp(pixel + change, 0, 255));
  }
  return out;
}

double compare(const Image& a, const Image& b, Size size) {
  return ssim({a.data(), size.height, size.width}, {b.data(), size.height, size.width});
}

// Every kind of pair, for every kernel of this CPU.
void expect_like_the_definition(Size size, std::mt19937& rng) {
  const Image black_white = [&] {
    Image image = constant(size, 0);
    for (std::size_t i = 0; i < image.size(); i += 2) image[i] = 255;
    return image;
  }();
  const std::vector<std::pair<Image, Image>> pairs{
      {noise(size, rng), noise(size, rng)},
      {waves(size), blurred(waves(size), 8, rng)},
      {waves(size), constant(size, 90)},
      {constant(size, 0), constant(size, 255)},
      {constant(size, 100), constant(size, 120)},
      {black_white, constant(size, 255)},
      {black_white, noise(size, rng)},
  };
  for (const auto& [a, b] : pairs) {
    const double exact = slow_ssim(a, b, size);
    const double found = compare(a, b, size);
    EXPECT_NEAR(found, exact, 1e-6) << size.height << "x" << size.width;
    EXPECT_EQ(compare(b, a, size), found);
    EXPECT_EQ(compare(a, a, size), 1.0) << size.height << "x" << size.width;
    for (const auto kernel : ssim_kernels()) {
      EXPECT_EQ(kernel(a.data(), b.data(), static_cast<std::size_t>(size.height), static_cast<std::size_t>(size.width)),
                found)
          << "the same bits on every CPU";
    }
  }
}

TEST(Ssim, FollowsTheDefinitionAtEveryShape) {
  std::mt19937 rng(1);  // NOLINT: replayable
  for (const Size size : {Size{7, 7}, Size{7, 8}, Size{8, 7}, Size{7, 300}, Size{300, 7}, Size{13, 14}, Size{14, 15},
                          Size{15, 22}, Size{31, 70}, Size{50, 61}, Size{96, 92}, Size{104, 104}}) {
    expect_like_the_definition(size, rng);
  }
  for (int i = 0; i < 20; ++i) {
    expect_like_the_definition({7 + static_cast<std::int64_t>(rng() % 40), 7 + static_cast<std::int64_t>(rng() % 90)},
                               rng);
  }
}

TEST(Ssim, FollowsTheDefinitionOnAWholeFrame) {
  std::mt19937 rng(2);  // NOLINT: replayable
  const Size size{416, 416};
  const auto a = waves(size);
  const auto b = blurred(a, 10, rng);
  EXPECT_NEAR(compare(a, b, size), slow_ssim(a, b, size), 1e-6);
  EXPECT_EQ(compare(b, b, size), 1.0);
}

TEST(Ssim, OnePixelIsEnoughToLeaveOne) {
  const Size size{40, 45};
  const auto a = constant(size, 128);
  for (const std::size_t at : {std::size_t{0}, std::size_t{44}, std::size_t{777}, a.size() - 1}) {
    auto b = a;
    b[at] = 200;
    EXPECT_LT(compare(a, b, size), 1.0) << at;
    EXPECT_NEAR(compare(a, b, size), slow_ssim(a, b, size), 1e-6) << at;
  }
}

TEST(Ssim, FallsAsNoiseGrows) {
  std::mt19937 rng(3);  // NOLINT: replayable
  const Size size{104, 104};
  const auto a = waves(size);
  double last = 1;
  for (const int amount : {2, 5, 12, 30, 80}) {
    const double now = compare(a, blurred(a, amount, rng), size);
    EXPECT_LT(now, last);
    last = now;
  }
}

TEST(Ssim, RefusesWhatItCannotCompare) {
  const Image pixels(100);
  const auto message = [&](LumaView a, LumaView b) -> std::string {
    try {
      ssim(a, b);
    } catch (const Error& error) {
      EXPECT_EQ(error.reason(), Reason::kInvalidInput);
      return error.what();
    }
    return "compared";
  };
  EXPECT_EQ(message({pixels.data(), 10, 10}, {pixels.data(), 10, 9}),
            "ssim compares images of one shape, got [10, 10] and [10, 9]; resize one of them");
  EXPECT_EQ(message({pixels.data(), 6, 16}, {pixels.data(), 6, 16}),
            "ssim wants images of at least [7, 7], got [6, 16]; compare the bytes instead");
  EXPECT_NE(message({pixels.data(), 16, 6}, {pixels.data(), 16, 6}), "compared");
  EXPECT_NE(message({nullptr, 0, 0}, {nullptr, 0, 0}), "compared");
}

}  // namespace
}  // namespace starling
