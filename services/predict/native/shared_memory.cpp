#include "shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <system_error>

namespace starling::predict {
namespace {

Status invalid(std::string message) { return {Reason::kInvalidInput, std::move(message), 0, {}}; }

std::string error_text() { return std::generic_category().message(errno); }

// One name in the folder of shared memory objects: no way to anything else.
bool is_object_name(const std::string& key) {
  const std::string_view name = key.starts_with('/') ? std::string_view(key).substr(1) : std::string_view(key);
  return !name.empty() && name.size() <= 254 && name != "." && name != ".." &&
         name.find('/') == std::string_view::npos && name.find('\0') == std::string_view::npos;
}

}  // namespace

// An open object and the part of it that was registered.
struct Region {
  Region(RegionInfo what, int descriptor) : info(std::move(what)), file(descriptor) {}
  ~Region() { close(file); }
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  std::uint64_t object_size() const {
    struct stat facts{};
    return fstat(file, &facts) == 0 && S_ISREG(facts.st_mode) ? static_cast<std::uint64_t>(facts.st_size) : 0;
  }

  Status ended(std::uint64_t at) const {
    return invalid("shared memory region \"" + info.name + "\" ended at byte " + std::to_string(at) + " of " +
                   std::to_string(info.size) + ": its object \"" + info.key +
                   "\" was made smaller after it was registered; register it again");
  }

  const RegionInfo info;
  const int file;
};

Status SharedMemory::add(RegionInfo info) {
  const auto region = "shared memory region \"" + info.name + "\"";
  if (info.name.empty() || info.name.size() > kNameMax) {
    return invalid("a shared memory region needs a name of 1 to " + std::to_string(kNameMax) + " bytes");
  }
  if (!is_object_name(info.key)) {
    return invalid(region +
                   " names no shared memory object; its key is \"/\" and 1 to 254 bytes without another \"/\"");
  }
  if (info.size == 0 || info.offset > std::uint64_t{1} << 62U || info.size > std::uint64_t{1} << 62U) {
    return invalid(region + " has offset " + std::to_string(info.offset) + " and " + std::to_string(info.size) +
                   " bytes, wanted at least 1 byte within 2^62");
  }
  const auto path = (info.key.starts_with('/') ? "" : "/") + info.key;
  const int file = shm_open(path.c_str(), O_RDWR, 0);
  if (file < 0) {
    return invalid(region + ": object \"" + info.key + "\" cannot be opened: " + error_text() +
                   "; create it on the machine of this node, readable and writable by it");
  }
  const auto opened = std::make_shared<const Region>(std::move(info), file);
  const auto object = opened->object_size();
  const auto end = opened->info.offset + opened->info.size;
  if (end > object) {
    return invalid(region + " ends at byte " + std::to_string(end) + ", its object \"" + opened->info.key + "\" has " +
                   std::to_string(object) + " bytes; register what it holds");
  }
  const std::lock_guard lock(mutex_);
  if (regions_.contains(opened->info.name)) {
    return {Reason::kAlreadyExists, region + " is registered already; unregister it, or take another name", 0, {}};
  }
  if (regions_.size() == kRegionsMax || opened->info.size > bytes_max_ - bytes_) {
    return {Reason::kQueueFull,
            region + " of " + std::to_string(opened->info.size) + " bytes is too much beside " +
                std::to_string(regions_.size()) + " regions of " + std::to_string(bytes_) + " bytes, at most " +
                std::to_string(kRegionsMax) + " regions of " + std::to_string(bytes_max_) +
                " bytes; unregister some or raise --shared-memory-mib-max",
            0,
            {}};
  }
  bytes_ += opened->info.size;
  regions_.emplace(opened->info.name, opened);
  return {};
}

void SharedMemory::remove(const std::string& name) {
  const std::lock_guard lock(mutex_);
  if (name.empty()) {
    regions_.clear();
    bytes_ = 0;
  } else if (const auto it = regions_.find(name); it != regions_.end()) {
    bytes_ -= it->second->info.size;
    regions_.erase(it);
  }
}

std::vector<RegionInfo> SharedMemory::regions() const {
  const std::lock_guard lock(mutex_);
  std::vector<RegionInfo> out;
  for (const auto& [name, region] : regions_) out.push_back(region->info);
  return out;
}

Status SharedMemory::find(const RegionRange& range, std::shared_ptr<const RegionBytes>& out) const {
  std::shared_ptr<const Region> region;
  {
    const std::lock_guard lock(mutex_);
    const auto it = regions_.find(range.region);
    if (it == regions_.end()) {
      return invalid("shared memory region \"" + range.region + "\" is not registered on this node; register it first");
    }
    region = it->second;
  }
  const auto size = region->info.size;
  if (range.offset > size || range.size > size - range.offset) {
    return invalid("shared memory region \"" + range.region + "\" has " + std::to_string(size) + " bytes, " +
                   std::to_string(range.size) + " at offset " + std::to_string(range.offset) +
                   " are not in it; name a range inside of it");
  }
  out = std::make_shared<RegionBytes>(std::move(region), range.offset, range.size);
  return {};
}

Status RegionBytes::check(std::uint64_t size) const {
  const auto object = region_->object_size();
  const auto begin = region_->info.offset;
  if (object >= begin + offset_ + size) return {};
  return region_->ended(object < begin ? 0 : object - begin);
}

Status RegionBytes::read(std::span<std::uint8_t> out) const {
  for (std::size_t done = 0; done < out.size();) {
    const auto at = region_->info.offset + offset_ + done;
    const auto n = pread(region_->file, out.data() + done, out.size() - done, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return region_->ended(offset_ + done);
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Status RegionBytes::write(const TensorSpec& output, std::span<const std::uint8_t> bytes) const {
  const auto named = "output \"" + output.name + "\"";
  const auto region = "shared memory region \"" + region_->info.name + "\"";
  if (bytes.size() > size_) {
    return invalid(named + " has " + std::to_string(bytes.size()) + " bytes, the " + std::to_string(size_) +
                   " named in " + region + " do not hold them; raise shared_memory_byte_size");
  }
  // A write past the end would grow an object that was made smaller; between this look and the write its owner can
  // at worst get back a size that it had registered.
  if (auto status = check(bytes.size()); !status.ok()) return status;
  for (std::size_t done = 0; done < bytes.size();) {
    const auto at = region_->info.offset + offset_ + done;
    const auto n = pwrite(region_->file, bytes.data() + done, bytes.size() - done, static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      return {Reason::kEngineFailed, named + " could not be written to " + region + ": " + error_text(), 0, {}};
    }
    done += static_cast<std::size_t>(n);
  }
  return {};
}

}  // namespace starling::predict
