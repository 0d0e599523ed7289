#include "detections.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

namespace starling {
namespace {

struct Row {
  std::vector<float> boxes = std::vector<float>(400, -1.F);
  std::vector<float> scores = std::vector<float>(100, -1.F);
  std::vector<std::int32_t> classes = std::vector<std::int32_t>(100, -1);
  std::int32_t count = -1;

  void run(const std::vector<std::array<float, 4>>& in_boxes, const std::vector<std::vector<float>>& in_scores,
           DetectionOptions options = {}) {
    std::vector<float> flat;
    for (const auto& row : in_scores) flat.insert(flat.end(), row.begin(), row.end());
    detect(in_boxes.empty() ? nullptr : in_boxes[0].data(), flat.data(), static_cast<std::int64_t>(in_boxes.size()),
           in_scores.empty() ? 2 : static_cast<std::int64_t>(in_scores[0].size()), options,
           {boxes.data(), scores.data(), classes.data(), &count});
  }
};

TEST(Detections, BestOfOverlappingBoxesStays) {
  Row row;
  row.run({{0, 0, 10, 10}, {1, 1, 11, 11}, {50, 50, 60, 60}}, {{0.6F, 0}, {0.9F, 0}, {0, 0.5F}});
  EXPECT_EQ(row.count, 2);
  EXPECT_FLOAT_EQ(row.scores[0], 0.9F);
  EXPECT_EQ(row.classes[1], 1);
  EXPECT_FLOAT_EQ(row.boxes[4], 50);
  EXPECT_FLOAT_EQ(row.scores[2], 0);
}

TEST(Detections, DifferentClassesDoNotSuppressEachOther) {
  Row row;
  row.run({{0, 0, 10, 10}, {0, 0, 10, 10}}, {{0.6F, 0}, {0, 0.9F}});
  EXPECT_EQ(row.count, 2);
}

TEST(Detections, NothingOverTheThresholdIsAnEmptyRow) {
  Row row;
  row.run({{0, 0, 1, 1}}, {{0.2F, 0.1F}});
  EXPECT_EQ(row.count, 0);
  EXPECT_FLOAT_EQ(row.boxes[0], 0);
  row.run({}, {});
  EXPECT_EQ(row.count, 0);
}

TEST(Detections, NotANumberIsDropped) {
  const auto nan = std::numeric_limits<float>::quiet_NaN();
  Row row;
  row.run({{nan, 0, 1, 1}, {0, 0, 1, 1}, {5, 5, 9, 9}}, {{0.9F, 0}, {nan, nan}, {0.8F, nan}});
  EXPECT_EQ(row.count, 1);
  EXPECT_FLOAT_EQ(row.scores[0], 0.8F);
}

TEST(Detections, StopsAtAHundred) {
  std::vector<std::array<float, 4>> boxes;
  std::vector<std::vector<float>> scores;
  for (int i = 0; i < 300; ++i) {
    const auto x = static_cast<float>(i * 20);
    boxes.push_back({x, 0, x + 10, 10});
    scores.push_back({0.5F + static_cast<float>(i) * 0.001F});
  }
  Row row;
  row.run(boxes, scores);
  EXPECT_EQ(row.count, 100);
  EXPECT_FLOAT_EQ(row.scores[0], 0.5F + 0.299F);
  for (int i = 1; i < 100; ++i) EXPECT_LE(row.scores[i], row.scores[i - 1]);
}

}  // namespace
}  // namespace starling
