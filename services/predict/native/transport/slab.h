// Memory that sockets are read into and that received messages keep, so that none of their bytes is copied.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace starling::transport {

// Bytes of messages and of the memory they keep, of all connections of a server together. Thread-safe.
class ReceiveBudget {
 public:
  explicit ReceiveBudget(std::uint64_t bytes_max) : bytes_max_(bytes_max) {}

  bool take(std::uint64_t bytes) noexcept;
  void give_back(std::uint64_t bytes) noexcept { taken_.fetch_sub(bytes, std::memory_order_relaxed); }
  std::uint64_t taken() const noexcept { return taken_.load(std::memory_order_relaxed); }

 private:
  const std::uint64_t bytes_max_;
  std::atomic<std::uint64_t> taken_{0};
};

// Written by the loop that owns it, behind everything that is kept of it; read, and let go, by any thread.
class Slab {
 public:
  static constexpr std::size_t kBytes = 256 << 10;

  // budget: what it was taken from and is given back to.
  explicit Slab(ReceiveBudget& budget) : budget_(budget) {}
  ~Slab() { budget_.give_back(kBytes); }
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  std::span<std::uint8_t> bytes() noexcept { return bytes_; }

 private:
  friend class SlabRef;

  ReceiveBudget& budget_;
  std::atomic<std::uint32_t> users_{0};
  std::array<std::uint8_t, kBytes> bytes_;  // uninitialised
};

// Keeps a slab.
class SlabRef {
 public:
  SlabRef() = default;
  explicit SlabRef(std::unique_ptr<Slab> slab) : slab_(slab.release()) { slab_->users_.store(1); }
  SlabRef(const SlabRef& other) noexcept : slab_(other.slab_) {
    if (slab_ != nullptr) slab_->users_.fetch_add(1, std::memory_order_relaxed);
  }
  SlabRef(SlabRef&& other) noexcept : slab_(std::exchange(other.slab_, nullptr)) {}
  SlabRef& operator=(SlabRef other) noexcept {
    std::swap(slab_, other.slab_);
    return *this;
  }
  ~SlabRef() {
    if (slab_ != nullptr && slab_->users_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      const std::unique_ptr<Slab> last(slab_);
    }
  }

  Slab* operator->() const noexcept { return slab_; }
  explicit operator bool() const noexcept { return slab_ != nullptr; }
  bool operator==(const SlabRef&) const = default;

  // True when nobody else keeps it, and all that others read of it they have read.
  bool is_alone() const noexcept { return slab_->users_.load(std::memory_order_acquire) == 1; }

 private:
  Slab* slab_ = nullptr;
};

// Where one loop reads to, of its thread alone: a few slabs in turn, and more while messages keep those. The few stay
// taken from the budget.
class ReceiveMemory {
 public:
  explicit ReceiveMemory(ReceiveBudget& budget) : budget_(budget) {}

  // Where to read next: behind all that may be kept.
  std::span<std::uint8_t> room();
  // `size` bytes were read into it.
  void filled(std::size_t size) noexcept { size_ = size; }
  // What keeps them; empty when nothing does and they have to be copied.
  const SlabRef& slab() const noexcept { return current_ < slabs_.size() ? slabs_[current_] : none_; }

 private:
  void renew();

  ReceiveBudget& budget_;
  const SlabRef none_;
  std::vector<SlabRef> slabs_;
  std::size_t current_ = 0;            // that of room(); none of them when the budget is used up
  std::size_t begin_ = 0;              // of room() in it
  std::size_t size_ = 0;               // read last
  std::vector<std::uint8_t> scratch_;  // where there is no slab
};

}  // namespace starling::transport
