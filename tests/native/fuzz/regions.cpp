// Shared memory: against an object that grows and shrinks, no range is read or written that is not registered.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <numeric>

#include "shared_memory.h"
#include "targets.h"

namespace starling::fuzz {
namespace {

constexpr std::size_t kObjectBytes = 64;
constexpr std::uint64_t kHuge = std::uint64_t{1} << 62U;

// One object for all runs; its bytes say where they are.
class Object {
 public:
  Object() : key_("/starling-fuzz-" + std::to_string(getpid())), file_(shm_open(key_.c_str(), O_CREAT | O_RDWR, 0600)) {
    require(file_ >= 0, "no shared memory object can be made");
  }
  ~Object() { shm_unlink(key_.c_str()); }
  void resize(std::size_t size) const {
    require(ftruncate(file_, static_cast<off_t>(size)) == 0, "the object cannot be resized");
    std::array<std::uint8_t, kObjectBytes> places;
    std::iota(places.begin(), places.end(), std::uint8_t{0});
    require(pwrite(file_, places.data(), size, 0) == static_cast<ssize_t>(size), "the object cannot be written");
  }
  std::size_t size() const { return static_cast<std::size_t>(lseek(file_, 0, SEEK_END)); }
  const std::string& key() const { return key_; }

 private:
  std::string key_;
  int file_;
};

// Takes numbers off the input: mostly small ones, some at the edge of what offsets can be.
class Numbers {
 public:
  explicit Numbers(Bytes bytes) : bytes_(bytes) {}
  bool more() const { return !bytes_.empty(); }
  std::uint64_t next() {
    if (bytes_.empty()) return 0;
    const auto byte = bytes_.front();
    bytes_ = bytes_.subspan(1);
    if (byte < 240) return byte % (kObjectBytes + 4);
    return byte < 248 ? kHuge - (248 - byte) : ~std::uint64_t{0} - (255 - byte);
  }

 private:
  Bytes bytes_;
};

}  // namespace

void fuzz_regions(Bytes operations) {
  static const Object object;
  object.resize(kObjectBytes);
  predict::SharedMemory memory(4 * kObjectBytes);
  const TensorSpec output{"y", DataType::kUint8, {-1}};
  Numbers numbers(operations);
  while (numbers.more()) {
    const auto operation = numbers.next() % 5;
    const std::string name(1, static_cast<char>('a' + numbers.next() % 3));
    const auto offset = numbers.next();
    const auto size = numbers.next();
    std::shared_ptr<const predict::RegionBytes> range;
    if (operation == 0) {
      const auto status = memory.add({name, object.key(), offset, size});
      require(!status.ok() || offset + size <= object.size(), "a region that its object does not hold");
    } else if (operation == 1) {
      memory.remove(name);
    } else if (operation == 2) {
      object.resize(offset % (kObjectBytes + 1));
    } else if (memory.find({name, offset, size}, range).ok()) {
      require(size <= kObjectBytes, "a range larger than its object ever was");
      // Of the exact size, so that one byte too many is seen.
      std::vector<std::uint8_t> bytes(size);
      const auto before = object.size();
      if (operation == 3) {
        const auto status = range->read(bytes);
        for (std::size_t i = 1; status.ok() && i < size; ++i) {
          require(bytes[i] == static_cast<std::uint8_t>(bytes[0] + i), "bytes that were not there");
        }
      } else if (size > 0) {
        require(range->read(bytes).ok() == range->write(output, bytes).ok(), "what is read and written differs");
      }
      require(object.size() == before, "a write changed the size of an object");
    }
  }
}

}  // namespace starling::fuzz
