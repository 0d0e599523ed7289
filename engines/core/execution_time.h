// How long a run of each batch bucket takes here: medians and high quantiles of recent runs.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "admission_code.h"

namespace starling {

// Two quantiles of one bucket, in microseconds.
struct RunTime {
  std::int64_t median_us = 0;
  std::int64_t high_us = 0;  // 90th percentile
};

// Estimates from a window of the last 64 runs a bucket. A few slow runs (a noisy neighbour) leave the median alone
// and move the high quantile only while they make up a tenth of the window; a lasting change is adopted within half
// a window. A bucket that is believed to take longer than a larger one is never chosen, so nothing would correct it:
// unless its own recent runs say so it is taken to be as quick as the larger one. One that does not run is taken to
// have become slower or quicker by as much as the one that does: else a neighbour that comes would make every other
// batch look cheap. Not thread-safe; pure: no clock.
//
// A larger bucket pays when it saves a row at least a tenth of the engine time: its requests are all answered when the
// last of them would be alone, and a few percent are noise. Convnets gain nothing from batches on a CPU.
class ExecutionTime {
 public:
  static constexpr std::size_t kWindow = 64;

  // buckets: rows of each compiled batch size, ascending.
  explicit ExecutionTime(std::span<const std::int64_t> buckets);

  void observe(std::size_t bucket, std::int64_t run_us);

  RunTime run_time(std::size_t bucket) const noexcept { return estimates_[bucket].now; }
  std::int64_t rows(std::size_t bucket) const noexcept { return estimates_[bucket].rows; }
  std::size_t size() const noexcept { return estimates_.size(); }

  // True of the smallest bucket, and of those in which a row takes clearly less time than in every smaller one.
  bool pays(std::size_t bucket) const noexcept { return estimates_[bucket].pays; }
  // Median engine time of a row in the best batch up to that bucket.
  std::int64_t row_us(std::size_t bucket) const noexcept { return estimates_[bucket].row_us; }
  // The largest bucket up to `most` that pays.
  std::size_t largest_that_pays(std::size_t most) const noexcept;

  // Smallest bucket that holds `rows`; the largest when none does.
  STARLING_ADMISSION_CODE std::size_t bucket_for(std::int64_t rows) const noexcept;

  // What admission reads for every request, apart from the windows: a few lines of cache.
  struct Estimate {
    std::int64_t rows = 1;
    RunTime now;  // what is believed
    std::int64_t row_us = 0;
    bool pays = true;
  };
  // Of each bucket.
  std::span<const Estimate> estimates() const noexcept { return estimates_; }

  // What the best batch saves a row against a run of the smallest.
  std::int64_t gain_us() const noexcept;

  // Median engine time to work off `rows` waiting rows on one slot, in the cheapest batches that pay.
  std::int64_t backlog_us(std::int64_t rows) const noexcept;

  // The same for runs that all take their high quantile: what a promise is made on. While requests wait the engine
  // is busy either way, so caution costs no throughput, only the requests that would have come too late.
  STARLING_ADMISSION_CODE std::int64_t cautious_backlog_us(std::int64_t rows) const noexcept;

 private:
  struct Bucket {
    std::array<std::int64_t, kWindow> window{};
    std::size_t count = 0;                   // runs ever seen
    std::size_t latest = 0;                  // number of its last run among those of all buckets
    RunTime own;                             // of its window
    std::vector<std::int64_t> medians_then;  // of each bucket, when this one ran; 0: unknown
  };

  double pace_since(const Bucket& bucket) const noexcept;
  void catch_up(Bucket& bucket);
  static void estimate(Bucket& bucket);
  void reconcile();
  void find_what_pays();
  STARLING_ADMISSION_CODE const Estimate& holds(std::int64_t rows) const noexcept;
  STARLING_ADMISSION_CODE std::int64_t cheapest_us(std::int64_t rows, std::int64_t RunTime::* quantile) const noexcept;

  std::vector<Estimate> estimates_;
  std::vector<Bucket> buckets_;
  std::size_t runs_ = 0;    // of all buckets
  std::size_t latest_ = 0;  // the bucket that ran last, of those that ran often enough to say how fast the machine is
};

}  // namespace starling
