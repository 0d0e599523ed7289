#include "wire.h"

#include <algorithm>
#include <array>
#include <bit>

namespace starling::wire {

Reader::Reader(const Spans& pieces) : pieces_(pieces) {
  for (const auto& piece : pieces) left_ += piece.size();
}

bool Reader::byte(std::uint8_t& out) {
  if (left_ == 0) return fail();
  while (offset_ == pieces_[piece_].size()) {
    ++piece_;
    offset_ = 0;
  }
  out = pieces_[piece_][offset_++];
  --left_;
  return true;
}

bool Reader::varint(std::uint64_t& out) {
  out = 0;
  if (failed_) return false;
  for (int shift = 0; shift < 70; shift += 7) {
    std::uint8_t b = 0;
    if (!byte(b)) return false;
    if (shift == 63 && b > 1) return fail();  // more than 64 bits
    out |= static_cast<std::uint64_t>(b & 0x7FU) << shift;
    if ((b & 0x80U) == 0) return true;
  }
  return fail();
}

bool Reader::tag(Tag& out) {
  std::uint64_t key = 0;
  if (!varint(key)) return false;
  const auto field = key >> 3U;
  const auto type = static_cast<std::uint8_t>(key & 7U);
  if (field == 0 || field > 0x1FFFFFFFU || type == 3 || type == 4 || type > 5) return fail();
  out = {static_cast<std::uint32_t>(field), static_cast<Type>(type)};
  return true;
}

bool Reader::length(std::uint64_t& out) {
  if (!varint(out)) return false;
  return out <= left_ || fail();
}

bool Reader::advance(std::uint64_t n, Spans* out) {
  if (failed_ || n > left_) return fail();
  left_ -= n;
  while (n > 0) {
    const auto& piece = pieces_[piece_];
    const auto here = std::min<std::uint64_t>(n, piece.size() - offset_);
    if (here == 0) {
      ++piece_;
      offset_ = 0;
      continue;
    }
    if (out != nullptr) out->push_back(piece.subspan(offset_, here));
    offset_ += here;
    n -= here;
  }
  return true;
}

bool Reader::bytes(Spans& out, std::uint64_t& size) {
  out.clear();
  if (length(size) && advance(size, &out)) return true;
  out.clear();
  size = 0;
  return false;
}

bool Reader::text(std::string& out, std::size_t max_size) {
  std::uint64_t size = 0;
  if (!length(size)) return false;
  if (size > max_size) return fail();
  out.resize(size);
  for (auto& c : out) {
    std::uint8_t b = 0;
    if (!byte(b)) return false;
    c = static_cast<char>(b);
  }
  if (is_utf8(out)) return true;
  out.clear();  // a refusal must not echo what is no text
  return fail();
}

bool Reader::fixed32(std::uint32_t& out) {
  out = 0;
  if (failed_) return false;
  for (unsigned shift = 0; shift < 32; shift += 8) {
    std::uint8_t b = 0;
    if (!byte(b)) return false;
    out |= static_cast<std::uint32_t>(b) << shift;
  }
  return true;
}

bool Reader::fixed(Spans& out, std::uint64_t size) {
  out.clear();
  return advance(size, &out);
}

bool Reader::integers(Type type, std::vector<std::int64_t>& out, std::size_t max_size) {
  std::uint64_t value = 0;
  if (type == Type::kVarint) {
    if (!varint(value)) return false;
    out.push_back(static_cast<std::int64_t>(value));
    return out.size() <= max_size;
  }
  std::uint64_t outer = 0;
  if (type != Type::kBytes || !enter(outer)) return false;
  while (more()) {
    if (!varint(value)) return false;
    out.push_back(static_cast<std::int64_t>(value));
    if (out.size() > max_size) return false;
  }
  leave(outer);
  return !failed();
}

bool Reader::skip(Type type) {
  std::uint64_t n = 0;
  switch (type) {
    case Type::kVarint:
      return varint(n);
    case Type::kFixed64:
      return advance(8, nullptr);
    case Type::kFixed32:
      return advance(4, nullptr);
    case Type::kBytes:
      return length(n) && advance(n, nullptr);
  }
  return fail();
}

bool Reader::enter(std::uint64_t& outer_left) {
  std::uint64_t size = 0;
  if (!length(size)) return false;
  outer_left = left_ - size;
  left_ = size;
  return true;
}

void Reader::leave(std::uint64_t outer_left) {
  if (!failed_) advance(left_, nullptr);
  left_ = outer_left;
}

bool is_utf8(std::string_view text) noexcept {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  const auto* end = p + text.size();
  const auto follows = [&](int n, unsigned char low, unsigned char high) {
    if (end - p <= n || p[1] < low || p[1] > high) return false;
    for (int i = 2; i <= n; ++i) {
      if (p[i] < 0x80 || p[i] > 0xBF) return false;
    }
    p += n + 1;
    return true;
  };
  while (p < end) {
    const unsigned char c = *p;
    if (c < 0x80) {
      ++p;
    } else if (c >= 0xC2 && c <= 0xDF) {
      if (!follows(1, 0x80, 0xBF)) return false;
    } else if (c >= 0xE0 && c <= 0xEF) {
      if (!follows(2, c == 0xE0 ? 0xA0 : 0x80, c == 0xED ? 0x9F : 0xBF)) return false;
    } else if (c >= 0xF0 && c <= 0xF4) {
      if (!follows(3, c == 0xF0 ? 0x90 : 0x80, c == 0xF4 ? 0x8F : 0xBF)) return false;
    } else {
      return false;
    }
  }
  return true;
}

std::size_t varint_size(std::uint64_t value) noexcept {
  std::size_t n = 1;
  while (value >= 0x80) {
    value >>= 7U;
    ++n;
  }
  return n;
}

void Writer::append(std::string_view bytes) {
  out_.own.append(bytes);
  out_.size += bytes.size();
}

void Writer::raw_varint(std::uint64_t value) {
  std::array<char, 10> bytes;
  std::size_t n = 0;
  for (; value >= 0x80; value >>= 7U) bytes[n++] = static_cast<char>((value & 0x7FU) | 0x80U);
  bytes[n++] = static_cast<char>(value);
  append({bytes.data(), n});
}

void Writer::tag(std::uint32_t field, Type type) { raw_varint((field << 3U) | static_cast<std::uint32_t>(type)); }

void Writer::varint(std::uint32_t field, std::uint64_t value) {
  if (value != 0) choice(field, value);
}

void Writer::choice(std::uint32_t field, std::uint64_t value) {
  tag(field, Type::kVarint);
  raw_varint(value);
}

void Writer::element(std::uint32_t field, std::string_view value) {
  tag(field, Type::kBytes);
  raw_varint(value.size());
  append(value);
}

void Writer::fixed32(std::uint32_t field, std::uint32_t value) {
  if (value == 0) return;
  tag(field, Type::kFixed32);
  for (unsigned shift = 0; shift < 32; shift += 8) out_.own.push_back(static_cast<char>(value >> shift & 0xFFU));
  out_.size += 4;
}

void Writer::real(std::uint32_t field, double value) {
  const auto bits = std::bit_cast<std::uint64_t>(value);
  if (bits == 0) return;  // minus zero is written, as protobuf does
  tag(field, Type::kFixed64);
  for (unsigned shift = 0; shift < 64; shift += 8) out_.own.push_back(static_cast<char>(bits >> shift & 0xFFU));
  out_.size += 8;
}

void Writer::text(std::uint32_t field, std::string_view value) {
  if (!value.empty()) element(field, value);
}

void Writer::packed(std::uint32_t field, const Shape& values) {
  if (values.empty()) return;
  std::uint64_t size = 0;
  for (const auto v : values) size += varint_size(static_cast<std::uint64_t>(v));
  tag(field, Type::kBytes);
  raw_varint(size);
  for (const auto v : values) raw_varint(static_cast<std::uint64_t>(v));
}

void Writer::message(std::uint32_t field, const Writer& value) {
  tag(field, Type::kBytes);
  raw_varint(value.size());
  append(value);
}

void Writer::message(std::uint32_t field, Writer&& value) {
  tag(field, Type::kBytes);
  raw_varint(value.size());
  append(std::move(value));
}

void Writer::append(const Writer& fields) { append(Writer(fields)); }

void Writer::append(Writer&& fields) {
  for (auto& [at, range] : fields.out_.payloads) out_.payloads.push_back({out_.own.size() + at, std::move(range)});
  out_.own += fields.out_.own;
  out_.size += fields.out_.size;
}

void Writer::bytes(std::uint32_t field, const std::shared_ptr<const Buffer>& buffer, std::size_t offset,
                   std::size_t size) {
  if (size == 0) return;
  tag(field, Type::kBytes);
  raw_varint(size);
  out_.payloads.push_back({out_.own.size(), {buffer, offset, size}});
  out_.size += size;
}

std::string Writer::str() const {
  std::string out;
  out.reserve(out_.size);
  std::size_t written = 0;
  for (const auto& [at, range] : out_.payloads) {
    out.append(out_.own, written, at - written);
    out.append(reinterpret_cast<const char*>(range.data()), range.size);
    written = at;
  }
  return out.append(out_.own, written);
}

}  // namespace starling::wire
