#include "shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>

namespace starling::predict {
namespace {

// A shared memory object of this process, gone with it.
class Object {
 public:
  explicit Object(std::size_t size) : file_(shm_open(key_.c_str(), O_CREAT | O_EXCL | O_RDWR, 0600)) {
    EXPECT_GE(file_, 0);
    resize(size);
  }
  ~Object() {
    close(file_);
    shm_unlink(key_.c_str());
  }
  void resize(std::size_t size) { EXPECT_EQ(ftruncate(file_, static_cast<off_t>(size)), 0); }
  void put(std::size_t offset, const std::string& bytes) {
    EXPECT_EQ(pwrite(file_, bytes.data(), bytes.size(), static_cast<off_t>(offset)),
              static_cast<ssize_t>(bytes.size()));
  }
  std::string bytes() const {
    std::string out(static_cast<std::size_t>(lseek(file_, 0, SEEK_END)), '\0');
    EXPECT_EQ(pread(file_, out.data(), out.size(), 0), static_cast<ssize_t>(out.size()));
    return out;
  }
  const std::string& key() const { return key_; }

 private:
  static inline int count_ = 0;
  const std::string key_ = "/starling-test-" + std::to_string(getpid()) + "-" + std::to_string(++count_);
  const int file_;
};

constexpr std::uint64_t kBytesMax = 1000;
constexpr std::uint64_t kHuge = ~std::uint64_t{0};

class SharedMemoryTest : public ::testing::Test {
 protected:
  SharedMemory memory_{kBytesMax};
  Object object_{100};

  void expect(const Status& status, const char* text, Reason reason = Reason::kInvalidInput) {
    EXPECT_EQ(status.reason, reason) << text;
    EXPECT_NE(status.message.find(text), std::string::npos) << status.message;
  }

  std::string read(std::uint64_t offset, std::uint64_t size) {
    std::shared_ptr<const RegionBytes> bytes;
    if (const auto status = memory_.find({"r", offset, size}, bytes); !status.ok()) return status.message;
    std::string out(size, '?');
    const auto status = bytes->read({reinterpret_cast<std::uint8_t*>(out.data()), out.size()});
    EXPECT_EQ(bytes->check(size).message, status.message);
    return status.ok() ? out : status.message;
  }

  Status write(std::uint64_t offset, std::uint64_t size, const std::string& bytes) {
    std::shared_ptr<const RegionBytes> range;
    if (auto status = memory_.find({"r", offset, size}, range); !status.ok()) return status;
    return range->write({"y", DataType::kUint8, {-1}},
                        {reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size()});
  }
};

TEST_F(SharedMemoryTest, ReadsAndWritesARegionOfAnObject) {
  ASSERT_TRUE(memory_.add({"r", object_.key(), 10, 50}).ok());
  object_.put(10, "hello");
  EXPECT_EQ(read(0, 5), "hello");
  EXPECT_EQ(read(50, 0), "");
  ASSERT_TRUE(write(45, 5, "world").ok());
  EXPECT_EQ(object_.bytes().substr(55), "world" + std::string(40, '\0'));
  const auto regions = memory_.regions();
  ASSERT_EQ(regions.size(), 1U);
  EXPECT_EQ(regions[0].key, object_.key());
  EXPECT_EQ(regions[0].offset, 10U);
  EXPECT_EQ(regions[0].size, 50U);
}

TEST_F(SharedMemoryTest, NoRangeLeavesItsRegion) {
  ASSERT_TRUE(memory_.add({"r", object_.key(), 10, 50}).ok());
  const std::pair<std::uint64_t, std::uint64_t> ranges[] = {{0, 51},    {50, 1},        {51, 0},        {kHuge, 1},
                                                            {1, kHuge}, {kHuge, kHuge}, {kHuge - 9, 60}};
  for (const auto& [offset, size] : ranges) {
    EXPECT_NE(read(offset, size).find("are not in it"), std::string::npos) << offset << " " << size;
    expect(write(offset, size, "x"), "are not in it");
  }
  expect(write(0, 3, "four"), "has 4 bytes, the 3 named in shared memory region \"r\" do not hold them");
  EXPECT_EQ(object_.bytes(), std::string(100, '\0'));
}

TEST_F(SharedMemoryTest, RefusesWhatAnObjectDoesNotHold) {
  expect(memory_.add({"r", object_.key(), 0, 101}), "ends at byte 101, its object");
  expect(memory_.add({"r", object_.key(), 100, 1}), "ends at byte 101, its object");
  expect(memory_.add({"r", object_.key(), kHuge, 2}), "wanted at least 1 byte within 2^62");
  expect(memory_.add({"r", object_.key(), 0, kHuge}), "wanted at least 1 byte within 2^62");
  expect(memory_.add({"r", object_.key(), 0, 0}), "wanted at least 1 byte");
  expect(memory_.add({"r", "/starling-test-nobody", 0, 1}), "cannot be opened: No such file");
  expect(memory_.add({"", object_.key(), 0, 1}), "needs a name of 1 to 256 bytes");
  EXPECT_TRUE(memory_.regions().empty());
}

TEST_F(SharedMemoryTest, AKeyLeadsToNothingButAnObject) {
  for (const char* key : {"", "/", "//", "/..", "..", ".", "/a/b", "/../etc/passwd", "a/../../etc/passwd"}) {
    expect(memory_.add({"r", key, 0, 1}), "names no shared memory object");
  }
  expect(memory_.add({"r", std::string("/a\0b", 4), 0, 1}), "names no shared memory object");
  expect(memory_.add({"r", "/" + std::string(255, 'a'), 0, 1}), "names no shared memory object");
  EXPECT_TRUE(memory_.add({"r", object_.key().substr(1), 0, 1}).ok()) << "a key without its slash";
}

TEST_F(SharedMemoryTest, AnObjectThatShrinksAfterwardsEndsARequestNotTheProcess) {
  ASSERT_TRUE(memory_.add({"r", object_.key(), 0, 100}).ok());
  object_.resize(10);
  EXPECT_NE(read(0, 100).find("ended at byte 10 of 100"), std::string::npos);
  EXPECT_EQ(read(0, 10).size(), 10U);
  expect(write(8, 8, "xxxxxxxx"), "ended at byte 10 of 100");
  EXPECT_EQ(object_.bytes().size(), 10U) << "a write made the object larger";
  object_.resize(0);
  EXPECT_NE(read(0, 1).find("ended at byte 0 of 100"), std::string::npos);
  object_.resize(100);
  EXPECT_EQ(read(0, 100).size(), 100U);
}

TEST_F(SharedMemoryTest, ARegionThatIsRemovedInUseServesItsLastRequest) {
  ASSERT_TRUE(memory_.add({"r", object_.key(), 0, 100}).ok());
  std::shared_ptr<const RegionBytes> range;
  ASSERT_TRUE(memory_.find({"r", 0, 5}, range).ok());
  memory_.remove("r");
  const Object other(100);
  ASSERT_TRUE(memory_.add({"r", other.key(), 0, 100}).ok());
  object_.put(0, "hello");
  std::vector<std::uint8_t> bytes(5);
  ASSERT_TRUE(range->read(bytes).ok());
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), "hello");
  ASSERT_TRUE(range->write({"y", DataType::kUint8, {-1}}, std::span(bytes).first(4)).ok());
  EXPECT_EQ(other.bytes(), std::string(100, '\0')) << "the new region of this name was written to";
}

TEST_F(SharedMemoryTest, NamesAreUniqueAndBounded) {
  ASSERT_TRUE(memory_.add({"r", object_.key(), 0, 100}).ok());
  expect(memory_.add({"r", object_.key(), 0, 1}), "is registered already", Reason::kAlreadyExists);
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(memory_.add({std::to_string(i), object_.key(), 0, 100}).ok());
  expect(memory_.add({"full", object_.key(), 0, 1}), "at most 256 regions of 1000 bytes", Reason::kQueueFull);
  memory_.remove("r");
  memory_.remove("nobody");
  EXPECT_TRUE(memory_.add({"r", object_.key(), 0, 100}).ok());
  memory_.remove("");
  EXPECT_TRUE(memory_.regions().empty());
  for (std::size_t i = 0; i < SharedMemory::kRegionsMax; ++i) {
    ASSERT_TRUE(memory_.add({std::to_string(i), object_.key(), 0, 1}).ok());
  }
  expect(memory_.add({"full", object_.key(), 0, 1}), "at most 256 regions", Reason::kQueueFull);
  EXPECT_NE(read(0, 1).find("is not registered on this node"), std::string::npos);
}

TEST_F(SharedMemoryTest, NoneIsAllowedWhereTheBoundIsZero) {
  SharedMemory none(0);
  expect(none.add({"r", object_.key(), 0, 1}), "at most 256 regions of 0 bytes", Reason::kQueueFull);
}

}  // namespace
}  // namespace starling::predict
