#include "tensor.h"

#include <gtest/gtest.h>

namespace starling {
namespace {

TEST(Tensor, EveryTypeHasANameAWidthAndComesBackByName) {
  for (int i = 1; i < kDataTypeCount; ++i) {
    const auto type = static_cast<DataType>(i);
    EXPECT_GT(width(type), 0U);
    EXPECT_EQ(data_type_from_name(name(type)), type);
  }
  EXPECT_FALSE(data_type_from_name("FLOAT"));
}

TEST(Tensor, ByteSizeRefusesOverflowAndNegativeDimensions) {
  const Shape fine{2, 3};
  const Shape huge{std::int64_t{1} << 40, std::int64_t{1} << 40};
  const Shape negative{2, -1};
  EXPECT_EQ(byte_size(DataType::kFp32, fine.data(), 2), 24U);
  EXPECT_FALSE(byte_size(DataType::kUint8, huge.data(), 2));
  EXPECT_FALSE(byte_size(DataType::kUint8, negative.data(), 2));
  EXPECT_EQ(byte_size(DataType::kFp32, fine.data(), 0), 4U);
}

TEST(Tensor, PrintsFreeDimensionsAsQuestionMarks) {
  EXPECT_EQ(to_string(TensorSpec{"frame", DataType::kUint8, {-1, -1, 3}}), "UINT8[?, ?, ?, 3]");
  EXPECT_EQ(to_string(TensorSpec{"count", DataType::kInt32, {}}), "INT32[?]");
}

}  // namespace
}  // namespace starling
