// System shared memory that clients name in requests instead of sending the bytes.
//
// A region is read and written through its file descriptor and never mapped. Whoever shares an object may truncate it
// at any time; a load from a mapping would then end the process with SIGBUS, whatever was checked before, while a read
// of the descriptor just comes back short. It is also what keeps an object from changing under the engine: a request
// works on what was read once, into the batch.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "request_view.h"

namespace starling::predict {

// What was registered.
struct RegionInfo {
  std::string name;
  std::string key;  // of the shared memory object, as the client wrote it
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

struct Region;

// A range of a region, as long as somebody holds it: read right into a batch, written right out of an engine's memory.
class RegionBytes final : public ByteSource, public ByteSink {
 public:
  RegionBytes(std::shared_ptr<const Region> region, std::uint64_t offset, std::uint64_t size)
      : region_(std::move(region)), offset_(offset), size_(size) {}

  // Does its object still hold the first `size` bytes?
  Status check(std::uint64_t size) const;

  Status read(std::span<std::uint8_t> out) const override;
  Status write(const TensorSpec& output, std::span<const std::uint8_t> bytes) const override;

 private:
  std::shared_ptr<const Region> region_;
  std::uint64_t offset_;
  std::uint64_t size_;
};

// The regions of a node. Thread-safe. A region that is removed stays open until the last request that uses it ends.
class SharedMemory {
 public:
  static constexpr std::size_t kRegionsMax = 256;

  // bytes_max: what all regions may hold together; 0 refuses every region.
  explicit SharedMemory(std::uint64_t bytes_max) : bytes_max_(bytes_max) {}

  // Opens an object and checks that it holds the region.
  Status add(RegionInfo region);

  // Forgets a region, or all for ""; what is not known is forgotten already.
  void remove(const std::string& name);

  std::vector<RegionInfo> regions() const;

  // A range of a region that is registered.
  Status find(const RegionRange& range, std::shared_ptr<const RegionBytes>& out) const;

 private:
  const std::uint64_t bytes_max_;
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const Region>> regions_;  // guarded by mutex_
  std::uint64_t bytes_ = 0;                                       // guarded by mutex_
};

}  // namespace starling::predict
