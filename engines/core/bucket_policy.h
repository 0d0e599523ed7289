// Which compiled batch size to run next. Pure.
#pragma once

#include <cstdint>
#include <span>

namespace starling {

// One compiled batch size and what a run of it costs here, from measurements.
struct BucketCost {
  std::int64_t rows = 1;
  std::int64_t run_us = 0;
};

// Index of the bucket with the least engine time per answered row, among those that hold the first request.
// A bucket that would make the earliest deadline is preferred to any that would not.
//
//   buckets:      ascending in rows, at least one holds `first_rows`
//   waiting_rows: rows that could join, >= first_rows
//   slack_us:     time to the earliest deadline
std::size_t choose_bucket(std::span<const BucketCost> buckets, std::int64_t first_rows, std::int64_t waiting_rows,
                          std::int64_t slack_us) noexcept;

}  // namespace starling
