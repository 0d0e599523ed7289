#include "slab.h"

#include <algorithm>

namespace starling::transport {
namespace {

constexpr std::size_t kSlabsMax = 8;
// Less room than this is not worth a system call.
constexpr std::size_t kRoomMin = 64 << 10;

}  // namespace

bool ReceiveBudget::take(std::uint64_t bytes) noexcept {
  if (taken_.fetch_add(bytes, std::memory_order_relaxed) + bytes <= bytes_max_) return true;
  give_back(bytes);
  return false;
}

std::span<std::uint8_t> ReceiveMemory::room() {
  begin_ = slab() && slab().is_alone() ? 0 : begin_ + std::exchange(size_, 0);
  if (!slab() || Slab::kBytes - begin_ < kRoomMin) renew();
  if (slab()) return slab()->bytes().subspan(begin_);
  scratch_.resize(Slab::kBytes);
  return scratch_;
}

// The first that nothing is kept of, which caches may still hold, or a new one, when the oldest lives on in the
// messages that keep it.
void ReceiveMemory::renew() {
  begin_ = 0;
  const auto free = std::find_if(slabs_.begin(), slabs_.end(), [](const SlabRef& slab) { return slab.is_alone(); });
  current_ = static_cast<std::size_t>(free - slabs_.begin());
  if (free != slabs_.end() || !budget_.take(Slab::kBytes)) return;
  if (slabs_.size() == kSlabsMax) slabs_.erase(slabs_.begin());
  slabs_.emplace_back(std::make_unique<Slab>(budget_));
  current_ = slabs_.size() - 1;
}

}  // namespace starling::transport
