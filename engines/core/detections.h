// Turns a detector's raw boxes and scores into a fixed number of detections: the step after the graph.
#pragma once

#include <cstdint>
#include <vector>

#include "engine.h"

namespace starling {

struct DetectionOptions {
  float score_threshold = 0.35F;
  float iou_threshold = 0.5F;
};

inline constexpr std::int64_t kDetectionsMax = 100;

// Raw outputs of a detector's graph, in this order: boxes float32[batch, anchors, 4] (x1, y1, x2, y2 in pixels),
// scores float32[batch, anchors, classes] in [0, 1].
Signature detector_graph_signature(const Signature& served);

// The signature agents see: boxes float32[batch, 100, 4], scores float32[batch, 100], classes int32[batch, 100],
// count int32[batch]. Throws Error(kInvalidConfig) when `served` differs.
void check_detections_signature(const Signature& served);

// One detection row block for one image. Buffers hold kDetectionsMax entries and are zero-filled behind `count`.
struct DetectionRow {
  float* boxes;
  float* scores;
  std::int32_t* classes;
  std::int32_t* count;
};

// Greedy non-maximum suppression inside each class, best scores first, at most kDetectionsMax results.
// Each anchor counts for its best class only. Anchors with a non-finite box are dropped.
// Complexity: O(anchors * classes + k * results), k = anchors over the threshold (at most 2048 best).
void detect(const float* boxes, const float* scores, std::int64_t anchors, std::int64_t classes,
            const DetectionOptions& options, const DetectionRow& out);

}  // namespace starling
