#include "byte_elements.h"

#include <algorithm>
#include <cstring>

namespace starling {
namespace {

constexpr std::size_t kLengthBytes = 4;

// Reads over bytes in pieces.
class Walker {
 public:
  explicit Walker(const Spans& pieces) : pieces_(pieces) {
    for (const auto& piece : pieces) left_ += piece.size();
  }

  std::uint64_t left() const noexcept { return left_; }

  // Moves on by `n` of the bytes left, copied to `out` unless it is null.
  void advance(std::uint64_t n, std::uint8_t* out) noexcept {
    left_ -= n;
    while (n > 0) {
      const auto& piece = pieces_[piece_];
      const auto here = std::min<std::uint64_t>(n, piece.size() - offset_);
      if (here == 0) {
        ++piece_;
        offset_ = 0;
        continue;
      }
      if (out != nullptr) out = std::copy_n(piece.data() + offset_, here, out);
      offset_ += here;
      n -= here;
    }
  }

 private:
  const Spans& pieces_;
  std::size_t piece_ = 0;
  std::size_t offset_ = 0;
  std::uint64_t left_ = 0;
};

std::uint32_t read_length(const std::uint8_t* bytes) noexcept {
  std::uint32_t length = 0;
  std::memcpy(&length, bytes, kLengthBytes);
  return length;
}

}  // namespace

std::optional<std::size_t> elements_size(std::span<const std::uint8_t> bytes, std::uint64_t count) noexcept {
  std::size_t at = 0;
  for (; count > 0; --count) {
    if (bytes.size() - at < kLengthBytes) return std::nullopt;
    const std::size_t length = read_length(bytes.data() + at);
    at += kLengthBytes;
    if (bytes.size() - at < length) return std::nullopt;
    at += length;
  }
  return at;
}

std::string check_elements(const Spans& pieces, std::uint64_t count) {
  Walker bytes(pieces);
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto element = [&] { return "element " + std::to_string(i) + " of " + std::to_string(count); };
    if (bytes.left() < kLengthBytes) {
      return element() + " has no length: " + std::to_string(bytes.left()) + " bytes are left";
    }
    std::uint8_t prefix[kLengthBytes];
    bytes.advance(kLengthBytes, prefix);
    const auto length = read_length(prefix);
    if (bytes.left() < length) {
      return element() + " says that it has " + std::to_string(length) + " bytes, " + std::to_string(bytes.left()) +
             " are left";
    }
    bytes.advance(length, nullptr);
  }
  if (bytes.left() == 0) return {};
  return std::to_string(bytes.left()) + " bytes are left behind its " + std::to_string(count) + " elements";
}

std::span<const std::uint8_t> take_element(std::span<const std::uint8_t>& bytes) noexcept {
  const auto element = bytes.subspan(kLengthBytes, read_length(bytes.data()));
  bytes = bytes.subspan(kLengthBytes + element.size());
  return element;
}

std::uint8_t* put_length(std::uint8_t* out, std::size_t size) noexcept {
  const auto length = static_cast<std::uint32_t>(size);
  std::memcpy(out, &length, kLengthBytes);
  return out + kLengthBytes;
}

}  // namespace starling
