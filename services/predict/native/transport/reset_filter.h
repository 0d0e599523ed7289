// Lets one mistake of gRPC's own clients pass.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

namespace starling::transport {

// Takes RST_STREAM frames of streams that were never opened out of what a peer sends. gRPC's core gives a call its
// stream when it has something to write; a call whose deadline passes before that, behind the large body of another,
// resets a stream that nobody has heard of. By RFC 9113, section 5.1, that ends the whole connection, with every call
// on it; gRPC's own servers overlook it.
class ResetFilter {
 public:
  // Calls feed() with what is left of the bytes, in order; false as soon as it says so.
  template <class Feed>
  bool pass(std::span<const std::uint8_t> bytes, const Feed& feed) {
    std::size_t from = 0;  // of what was not fed yet
    std::size_t at = 0;
    const auto flush = [&] { return from == at || feed(bytes.subspan(from, at - from)); };
    while (at < bytes.size()) {
      const auto left = bytes.size() - at;
      if (payload_ > 0) {
        const auto step = std::min<std::size_t>(payload_, left);
        payload_ -= static_cast<std::uint32_t>(step);
        at += step;
        if (dropping_) from = at;
      } else if (head_size_ == 0 && left >= kHeadBytes) {
        begin(bytes.subspan(at).first<kHeadBytes>());
        if (dropping_ && !flush()) return false;
        at += kHeadBytes;
        if (dropping_) from = at;
      } else {
        // The head of a frame in two reads: it is kept until it is whole.
        if (!flush()) return false;
        const auto step = std::min(kHeadBytes - head_size_, left);
        std::copy_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), step, head_.begin() + head_size_);
        head_size_ += step;
        at += step;
        from = at;
        if (head_size_ < kHeadBytes) break;
        head_size_ = 0;
        begin(head_);
        if (!dropping_ && !feed(std::span<const std::uint8_t>(head_))) return false;
      }
    }
    return flush();
  }

 private:
  static constexpr std::size_t kHeadBytes = 9;
  static constexpr std::uint32_t kPrefaceBytes = 24;
  static constexpr std::uint8_t kHeaders = 1;
  static constexpr std::uint8_t kRstStream = 3;

  void begin(std::span<const std::uint8_t, kHeadBytes> head) noexcept {
    payload_ = static_cast<std::uint32_t>(head[0] << 16 | head[1] << 8 | head[2]);
    const auto stream =
        (std::uint32_t{head[5]} << 24 | std::uint32_t{head[6]} << 16 | std::uint32_t{head[7]} << 8 | head[8]) &
        0x7fff'ffffU;
    if (head[3] == kHeaders) opened_ = std::max(opened_, stream);
    dropping_ = head[3] == kRstStream && payload_ == 4 && stream % 2 == 1 && stream > opened_;
  }

  std::array<std::uint8_t, kHeadBytes> head_{};
  std::size_t head_size_ = 0;
  std::uint32_t payload_ = kPrefaceBytes;  // still to come of this frame; the preface is none, but as long as one
  std::uint32_t opened_ = 0;               // the last stream
  bool dropping_ = false;
};

}  // namespace starling::transport
