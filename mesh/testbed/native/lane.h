// One direction of a link: decides when each packet arrives, or that it does not. Knows no sockets and no clock.
#pragma once

#include <cstdint>
#include <random>

namespace starling::testbed {

using Nanoseconds = std::int64_t;

// What a link does to packets. Each direction has its own and may change it at any time.
struct Shape {
  // Time from the end of the sender's line to the far host, and how far a packet's own time is off it, either way.
  Nanoseconds delay = 0;
  Nanoseconds jitter = 0;
  // Share of packets that are lost, independently of each other; 1 is a partition.
  double loss = 0;
  // Line rate in bits a second: packets follow each other through it. 0 means no limit.
  double rate = 0;
  // Share of packets that keep their own time even if that is before their predecessor's. With 0 nothing overtakes;
  // otherwise a packet overtakes at most what was sent up to twice the jitter before it.
  double reorder = 0;
  // Longest time a packet may wait for the line; what would wait longer is dropped, as by a router's full buffer.
  Nanoseconds buffer = 200'000'000;
};

enum class Fate { kCarried, kLost, kOverflowed };

struct Passage {
  Fate fate;
  Nanoseconds due;  // when a carried packet arrives
};

class Lane {
 public:
  // At most this much is under way, so that a wire has a bound; a delay of one second at 500 Mbit/s fits.
  static constexpr std::int64_t kUnderWayBytesMax = 64 << 20;

  Lane(const Shape& shape, std::uint64_t seed) : shape_(shape), random_(seed) {}

  const Shape& shape() const { return shape_; }
  // Holds for packets offered from now on; those under way keep their times, and order is kept across the change.
  void set_shape(const Shape& shape) { shape_ = shape; }

  // Takes a packet of `bytes` that left its host at `now`, which never goes back.
  Passage offer(Nanoseconds now, std::int64_t bytes);
  // A carried packet has arrived.
  void arrive(std::int64_t bytes) { under_way_bytes_ -= bytes; }

  std::int64_t packets() const { return packets_; }
  std::int64_t bytes() const { return bytes_; }
  std::int64_t lost() const { return lost_; }
  std::int64_t overflowed() const { return overflowed_; }
  std::int64_t under_way_bytes() const { return under_way_bytes_; }

 private:
  double draw();  // uniform in [0, 1)

  Shape shape_;
  std::mt19937_64 random_;
  Nanoseconds line_free_ = 0;
  Nanoseconds last_due_ = 0;
  std::int64_t under_way_bytes_ = 0;
  std::int64_t packets_ = 0;
  std::int64_t bytes_ = 0;
  std::int64_t lost_ = 0;
  std::int64_t overflowed_ = 0;
};

}  // namespace starling::testbed
