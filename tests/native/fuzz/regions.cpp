// Shared memory: against an object that grows and shrinks, no range is read or written that is not registered.
#include <errno.h>
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

// The one object that there is, for all runs; its bytes say where they are.
class Object {
 public:
  Object() : file_(memfd_create(kKey, MFD_CLOEXEC)) { require(file_ >= 0, "no shared memory object can be made"); }
  static const Object& get() {
    static const Object object;
    return object;
  }
  int open_again(int flags) const { return open(("/proc/self/fd/" + std::to_string(file_)).c_str(), flags); }
  void resize(std::size_t size) const {
    require(ftruncate(file_, static_cast<off_t>(size)) == 0, "the object cannot be resized");
    std::array<std::uint8_t, kObjectBytes> places;
    std::iota(places.begin(), places.end(), std::uint8_t{0});
    require(pwrite(file_, places.data(), size, 0) == static_cast<ssize_t>(size), "the object cannot be written");
  }
  std::size_t size() const { return static_cast<std::size_t>(lseek(file_, 0, SEEK_END)); }

  static constexpr const char* kKey = "/object";

 private:
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
  const auto& object = Object::get();
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
      const auto status = memory.add({name, Object::kKey, offset, size});
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

// In place of the system's: a fuzzer that is killed leaves no object behind.
extern "C" int shm_open(const char* name, int flags, mode_t) {
  if (name != std::string_view(starling::fuzz::Object::kKey)) {
    errno = ENOENT;
    return -1;
  }
  return starling::fuzz::Object::get().open_again(flags);
}
