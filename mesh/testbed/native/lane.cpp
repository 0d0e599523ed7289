#include "lane.h"

#include <algorithm>

namespace starling::testbed {

Passage Lane::offer(Nanoseconds now, std::int64_t bytes) {
  const Nanoseconds start = std::max(now, line_free_);
  if (start - now > shape_.buffer || under_way_bytes_ + bytes > kUnderWayBytesMax) {
    ++overflowed_;
    return {Fate::kOverflowed, 0};
  }
  // A packet takes its time on the line even if it is lost behind it.
  const Nanoseconds on_line =
      shape_.rate > 0 ? static_cast<Nanoseconds>(static_cast<double>(bytes) * 8e9 / shape_.rate) : 0;
  line_free_ = start + on_line;
  // All draws are made for every packet, so that a seed gives the same losses whatever the other values are.
  const double loss = draw(), spread = draw(), overtakes = draw();
  if (loss < shape_.loss) {
    ++lost_;
    return {Fate::kLost, 0};
  }
  const auto off = static_cast<Nanoseconds>(static_cast<double>(shape_.jitter) * (2 * spread - 1));
  Nanoseconds due = line_free_ + std::max<Nanoseconds>(0, shape_.delay + off);
  if (overtakes >= shape_.reorder) due = std::max(due, last_due_);
  last_due_ = std::max(last_due_, due);
  ++packets_;
  bytes_ += bytes;
  under_way_bytes_ += bytes;
  return {Fate::kCarried, due};
}

double Lane::draw() { return static_cast<double>(random_() >> 11) * 0x1.0p-53; }

}  // namespace starling::testbed
