#include "detections.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace starling {
namespace {

constexpr std::size_t kCandidatesMax = 2048;

struct Candidate {
  float score;
  std::int32_t label;
  std::int64_t anchor;
};

float area(const float* box) noexcept { return std::max(0.F, box[2] - box[0]) * std::max(0.F, box[3] - box[1]); }

float intersection_over_union(const float* a, const float* b) noexcept {
  const float w = std::min(a[2], b[2]) - std::max(a[0], b[0]);
  const float h = std::min(a[3], b[3]) - std::max(a[1], b[1]);
  if (w <= 0.F || h <= 0.F) return 0.F;
  const float inner = w * h;
  return inner / (area(a) + area(b) - inner);
}

bool finite(const float* box) noexcept {
  return std::isfinite(box[0]) && std::isfinite(box[1]) && std::isfinite(box[2]) && std::isfinite(box[3]);
}

// The maximum first (vectorises), the arg max only for the few anchors that pass.
std::vector<Candidate> candidates(const float* boxes, const float* scores, std::int64_t anchors, std::int64_t classes,
                                  float threshold) {
  std::vector<Candidate> found;
  for (std::int64_t a = 0; a < anchors; ++a) {
    const float* row = scores + a * classes;
    float best = 0.F;
    for (std::int64_t c = 0; c < classes; ++c) best = row[c] > best ? row[c] : best;
    if (!(best >= threshold) || !finite(boxes + a * 4)) continue;
    const auto label = static_cast<std::int32_t>(std::find(row, row + classes, best) - row);
    found.push_back({best, label, a});
  }
  std::sort(found.begin(), found.end(), [](const Candidate& x, const Candidate& y) {
    return x.score != y.score ? x.score > y.score : x.anchor < y.anchor;
  });
  if (found.size() > kCandidatesMax) found.resize(kCandidatesMax);
  return found;
}

bool same(const TensorSpec& spec, const char* name, DataType type, const Shape& dims) {
  return spec.name == name && spec.data_type == type && spec.dims == dims;
}

}  // namespace

void check_detections_signature(const Signature& served) {
  const auto& o = served.outputs;
  if (o.size() == 4 && same(o[0], "boxes", DataType::kFp32, {kDetectionsMax, 4}) &&
      same(o[1], "scores", DataType::kFp32, {kDetectionsMax}) &&
      same(o[2], "classes", DataType::kInt32, {kDetectionsMax}) && same(o[3], "count", DataType::kInt32, {})) {
    return;
  }
  throw Error(
      Reason::kInvalidConfig,
      "postprocess \"nms\" returns boxes FP32 [100, 4], scores FP32 [100], classes INT32 [100], count INT32 []: "
      "declare these four outputs in this order");
}

Signature detector_graph_signature(const Signature& served) {
  return {served.inputs, {{"boxes", DataType::kFp32, {-1, 4}}, {"scores", DataType::kFp32, {-1, -1}}}};
}

void detect(const float* boxes, const float* scores, std::int64_t anchors, std::int64_t classes,
            const DetectionOptions& options, const DetectionRow& out) {
  std::memset(out.boxes, 0, sizeof(float) * 4 * kDetectionsMax);
  std::memset(out.scores, 0, sizeof(float) * kDetectionsMax);
  std::memset(out.classes, 0, sizeof(std::int32_t) * kDetectionsMax);
  std::int32_t count = 0;
  for (const auto& c : candidates(boxes, scores, anchors, classes, options.score_threshold)) {
    const float* box = boxes + c.anchor * 4;
    bool keep = true;
    for (std::int32_t k = 0; k < count && keep; ++k) {
      keep = out.classes[k] != c.label || intersection_over_union(out.boxes + k * 4, box) <= options.iou_threshold;
    }
    if (!keep) continue;
    std::memcpy(out.boxes + count * 4, box, sizeof(float) * 4);
    out.scores[count] = c.score;
    out.classes[count] = c.label;
    if (++count == kDetectionsMax) break;
  }
  *out.count = count;
}

}  // namespace starling
