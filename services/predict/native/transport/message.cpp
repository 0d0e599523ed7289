#include "message.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

namespace starling::transport {
namespace {

// Small parts of a message share a piece of this size; greater ones stay where they were read to.
constexpr std::uint64_t kOwnPiece = 4096;
constexpr std::uint64_t kReferMin = 1024;
constexpr std::size_t kInflatedPieceMax = 1 << 20;

// Decompresses into pieces that double; false when it is malformed, kTooLarge by `bytes_max`.
MessageReader::Step inflate_message(const Spans& in, Encoding encoding, std::uint64_t bytes_max, Message& out) {
  z_stream stream{};
  // 15 bits of window; 16 more: a gzip header is expected, else zlib's.
  if (inflateInit2(&stream, encoding == Encoding::kGzip ? 15 + 16 : 15) != Z_OK) return MessageReader::Step::kNoMemory;
  const std::unique_ptr<z_stream, int (*)(z_stream*)> end(&stream, inflateEnd);
  std::uint64_t produced = 0;
  std::size_t piece = 4096;
  for (std::size_t i = 0; i <= in.size(); ++i) {
    if (i < in.size()) {
      stream.next_in = const_cast<std::uint8_t*>(in[i].data());  // NOLINT: zlib only reads it
      stream.avail_in = static_cast<unsigned>(in[i].size());
    }
    int result = Z_OK;
    while (result == Z_OK && (stream.avail_in > 0 || stream.avail_out == 0)) {
      if (stream.avail_out == 0) {
        if (produced > bytes_max) return MessageReader::Step::kTooLarge;
        const auto room = out.extend(piece);
        stream.next_out = room.data();
        stream.avail_out = static_cast<unsigned>(room.size());
        produced += piece;
        piece = std::min(piece * 2, kInflatedPieceMax);
      }
      result = inflate(&stream, Z_NO_FLUSH);
      if (result == Z_BUF_ERROR) result = stream.avail_out == 0 ? Z_OK : Z_BUF_ERROR;
    }
    if (result == Z_STREAM_END) {
      if (stream.avail_in > 0 || i + 1 < in.size()) return MessageReader::Step::kBadEncoding;
      if (stream.total_out > bytes_max) return MessageReader::Step::kTooLarge;
      if (produced > 0) out.trim_last(out.spans().back().size() - stream.avail_out);
      return MessageReader::Step::kMessage;
    }
    if (result != Z_OK && result != Z_BUF_ERROR) return MessageReader::Step::kBadEncoding;
  }
  return MessageReader::Step::kBadEncoding;  // it ends before its end
}

}  // namespace

std::span<std::uint8_t> Message::extend(std::size_t size) {
  pieces_.push_back(std::make_unique_for_overwrite<std::uint8_t[]>(size));
  spans_.emplace_back(pieces_.back().get(), size);
  copied_ += size;
  return {pieces_.back().get(), size};
}

void Message::refer(std::span<const std::uint8_t> bytes, const SlabRef& slab) {
  spans_.push_back(bytes);
  if (slabs_.empty() || slabs_.back() != slab) slabs_.push_back(slab);
}

void Message::trim_last(std::size_t size) {
  copied_ -= spans_.back().size() - size;
  spans_.back() = spans_.back().first(size);
}

Encoding encoding_from_name(std::string_view name) noexcept {
  if (name == "identity") return Encoding::kIdentity;
  if (name == "gzip") return Encoding::kGzip;
  if (name == "deflate") return Encoding::kDeflate;
  return Encoding::kUnknown;
}

MessageReader::Step MessageReader::read(std::span<const std::uint8_t>& data, Message& out, const SlabRef& slab) {
  if (prefix_size_ < prefix_.size()) {
    const auto taken = std::min(prefix_.size() - prefix_size_, data.size());
    std::memcpy(prefix_.data() + prefix_size_, data.data(), taken);
    prefix_size_ += taken;
    data = data.subspan(taken);
    if (prefix_size_ < prefix_.size()) return Step::kMore;
    size_ = std::uint64_t{prefix_[1]} << 24 | std::uint64_t{prefix_[2]} << 16 | std::uint64_t{prefix_[3]} << 8 |
            std::uint64_t{prefix_[4]};
    left_ = size_;
    if (prefix_[0] > 1 || (prefix_[0] == 1 && encoding_ == Encoding::kIdentity)) return Step::kBadEncoding;
    if (size_ > bytes_max_) return Step::kTooLarge;
  }
  while (left_ > 0 && !data.empty()) {
    const auto part = data.first(std::min<std::uint64_t>(left_, data.size()));
    if (slab && (part.size() == size_ || part.size() >= kReferMin)) {
      if (!room_.empty()) message_.trim_last(message_.spans().back().size() - room_.size());
      room_ = {};
      message_.refer(part, slab);
      data = data.subspan(part.size());
      left_ -= part.size();
      continue;
    }
    if (room_.empty()) {
      const auto piece = std::min(left_, std::max<std::uint64_t>(part.size(), kOwnPiece));
      if (!budget_.take(piece)) return Step::kNoMemory;
      held_ += piece;
      room_ = message_.extend(piece);
    }
    const auto taken = std::min(room_.size(), data.size());
    std::memcpy(room_.data(), data.data(), taken);
    room_ = room_.subspan(taken);
    data = data.subspan(taken);
    left_ -= taken;
  }
  return left_ > 0 ? Step::kMore : finish(out);
}

MessageReader::Step MessageReader::finish(Message& out) {
  budget_.give_back(std::exchange(held_, 0));
  prefix_size_ = 0;
  auto whole = std::exchange(message_, {});
  if (prefix_[0] == 1) return inflate_message(whole.spans(), encoding_, bytes_max_, out = Message{});
  out = std::move(whole);
  return Step::kMessage;
}

}  // namespace starling::transport
