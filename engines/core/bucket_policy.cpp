#include "bucket_policy.h"

#include <algorithm>

namespace starling {

std::size_t choose_bucket(std::span<const BucketCost> buckets, std::int64_t first_rows, std::int64_t waiting_rows,
                          std::int64_t slack_us) noexcept {
  std::size_t best = buckets.size() - 1;
  bool best_in_time = false;
  double best_cost = 0;
  bool found = false;
  for (std::size_t i = 0; i < buckets.size(); ++i) {
    const auto& bucket = buckets[i];
    if (bucket.rows < first_rows) continue;
    const bool in_time = bucket.run_us <= slack_us;
    const auto answered = std::min(bucket.rows, waiting_rows);
    const double cost = static_cast<double>(bucket.run_us) / static_cast<double>(answered);
    if (!found || (in_time && !best_in_time) || (in_time == best_in_time && cost < best_cost)) {
      best = i;
      best_in_time = in_time;
      best_cost = cost;
      found = true;
    }
  }
  return best;
}

}  // namespace starling
