// Memory for the small parts of what a loop sends, of all its connections together.
#pragma once

#include <cstring>
#include <deque>

#include "wire.h"

namespace starling::transport {

// Of the loop's thread alone, as is all that refers to it.
class SendMemory {
 public:
  static constexpr std::size_t kBlockBytes = 64 << 10;

  // Appends a copy of `bytes` to `out`.
  void append(std::deque<wire::Range>& out, std::span<const std::uint8_t> bytes) {
    if (bytes.size() > kBlockBytes) {
      const auto own = std::make_shared<Buffer>(bytes.size());
      std::memcpy(own->data(), bytes.data(), bytes.size());
      out.push_back({own, 0, bytes.size()});
      return;
    }
    if (block_ != nullptr && block_.use_count() == 1) used_ = 0;
    if (block_ == nullptr || bytes.size() > kBlockBytes - used_) {
      block_ = std::make_shared<Buffer>(kBlockBytes);
      used_ = 0;
    }
    std::memcpy(block_->data() + used_, bytes.data(), bytes.size());
    if (!out.empty() && out.back().buffer == block_ && out.back().offset + out.back().size == used_) {
      out.back().size += bytes.size();
    } else {
      out.push_back({block_, used_, bytes.size()});
    }
    used_ += bytes.size();
  }

 private:
  std::shared_ptr<Buffer> block_;
  std::size_t used_ = 0;
};

}  // namespace starling::transport
