#include "byte_elements.h"

#include <gtest/gtest.h>

namespace starling {
namespace {

std::span<const std::uint8_t> view(std::string_view bytes) {
  return {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()};
}

constexpr std::string_view kThree("\2\0\0\0ab\0\0\0\0\1\0\0\0c", 15);  // "ab", "", "c"

TEST(ByteElements, AreAcceptedHoweverTheyAreCut) {
  for (std::size_t step = 1; step <= kThree.size(); ++step) {
    Spans pieces;
    for (std::size_t at = 0; at < kThree.size(); at += step) pieces.push_back(view(kThree.substr(at, step)));
    EXPECT_EQ(check_elements(pieces, 3), "") << step;
    EXPECT_EQ(check_elements(pieces, 2), "5 bytes are left behind its 2 elements") << step;
    EXPECT_EQ(check_elements(pieces, 4), "element 3 of 4 has no length: 0 bytes are left") << step;
  }
  EXPECT_EQ(check_elements({}, 0), "");
}

TEST(ByteElements, NoLengthLeadsOutOfTheTensor) {
  const auto check = [](std::string_view bytes, std::uint64_t count) { return check_elements({view(bytes)}, count); };
  EXPECT_EQ(check({"\1\0\0", 3}, 1), "element 0 of 1 has no length: 3 bytes are left");
  EXPECT_EQ(check({"\5\0\0\0abcd", 8}, 1), "element 0 of 1 says that it has 5 bytes, 4 are left");
  EXPECT_EQ(check("\xFF\xFF\xFF\xFF", 1), "element 0 of 1 says that it has 4294967295 bytes, 0 are left");
  EXPECT_EQ(check(kThree, ~std::uint64_t{0}), "element 3 of 18446744073709551615 has no length: 0 bytes are left");
  for (std::size_t n = 0; n < kThree.size(); ++n) EXPECT_NE(check(kThree.substr(0, n), 3), "") << n;
}

TEST(ByteElements, AreMeasuredTakenAndPut) {
  EXPECT_EQ(elements_size(view(kThree), 2), 10U);
  EXPECT_EQ(elements_size(view(kThree), 0), 0U);
  EXPECT_EQ(elements_size(view(kThree), 4), std::nullopt);
  EXPECT_EQ(elements_size(view(kThree.substr(0, 5)), 1), std::nullopt);
  auto rest = view(kThree);
  std::string again(kThree.size(), '?');
  auto* out = reinterpret_cast<std::uint8_t*>(again.data());
  while (!rest.empty()) {
    const auto element = take_element(rest);
    out = std::copy(element.begin(), element.end(), put_length(out, element.size()));
  }
  EXPECT_EQ(again, kThree);
}

}  // namespace
}  // namespace starling
