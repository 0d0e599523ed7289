// Inputs of the transport that mean something.
#include <zlib.h>

#include <algorithm>

#include "requests.h"

namespace starling::fuzz {
namespace {

std::string number(std::uint64_t value, int bytes) {
  std::string out;
  while (bytes-- > 0) out += static_cast<char>(value >> (8 * bytes));
  return out;
}

std::string compressed(const std::string& text, int window_bits) {
  z_stream stream{};
  deflateInit2(&stream, Z_BEST_SPEED, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY);
  std::string out(text.size() + 64, '\0');
  auto in = text;
  stream.next_in = reinterpret_cast<std::uint8_t*>(in.data());
  stream.avail_in = static_cast<unsigned>(in.size());
  stream.next_out = reinterpret_cast<std::uint8_t*>(out.data());
  stream.avail_out = static_cast<unsigned>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

enum Encoding : std::uint8_t { kIdentity, kGzip, kDeflate };

// Some messages of a call, one of them now and then with a prefix that claims more.
std::string messages(Rng& rng, Encoding encoding) {
  std::string out;
  for (std::uint64_t i = rng() % 4; i > 0; --i) {
    std::string text(rng() % 8 == 0 ? rng() % 20'000 : rng() % 20, rng() % 3 == 0 ? 'r' : 'm');
    if (rng() % 4 == 0) text = {10, 2, 8, static_cast<char>(rng() % 128)};  // to health a name, to ORCA seconds
    const bool packed = encoding != kIdentity && rng() % 4 != 0;
    if (packed) {
      text = compressed(text, encoding == kGzip ? 31 : 15);
    } else {
      text.resize(std::min<std::size_t>(text.size(), 100));
    }
    const auto claimed = rng() % 16 == 0 ? rng() : text.size();
    out += number(packed ? 1 : 0, 1) + number(claimed, 4) + text;
  }
  return out;
}

std::string frame(std::uint8_t type, std::uint8_t flags, std::uint64_t stream, const std::string& payload) {
  return number(payload.size(), 3) + number(type, 1) + number(flags, 1) + number(stream, 4) + payload;
}

// A literal header as HPACK has it, without index and without Huffman.
std::string header(const std::string& name, const std::string& value) {
  return number(0, 1) + number(name.size(), 1) + name + number(value.size(), 1) + value;
}

std::string head(Rng& rng, Encoding encoding) {
  static constexpr const char* kPaths[] = {"/echo",
                                           "/later",
                                           "/later",
                                           "/grpc.health.v1.Health/Check",
                                           "/grpc.health.v1.Health/Watch",
                                           "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics",
                                           "/none"};
  static constexpr const char* kEncodings[] = {"identity", "gzip", "deflate"};
  static constexpr const char* kTimes[] = {"1n", "5S", "100m", "99999999H", "1x", ""};
  // POST and http from the static table.
  auto out = std::string(rng() % 16 == 0 ? "\x82" : "\x83") + "\x86" + header(":path", kPaths[rng() % 7]) +
             header(":authority", "a");
  out += header("content-type", rng() % 16 == 0 ? "text/html" : "application/grpc");
  if (encoding != kIdentity) out += header("grpc-encoding", rng() % 16 == 0 ? "br" : kEncodings[encoding]);
  if (rng() % 4 == 0) out += header("grpc-timeout", kTimes[rng() % 6]);
  if (rng() % 4 == 0) out += header("x-tenant", "farm");
  return out;
}

}  // namespace

std::string valid_messages(Rng& rng) {
  const auto encoding = static_cast<Encoding>(rng() % 3);
  return number(encoding, 1) + messages(rng, encoding);
}

std::string valid_metadata(Rng& rng) {
  static constexpr std::string_view kTimes = "0123456789HMSmun";
  static constexpr std::string_view kStrange = "-+ .x%\x80\xFF";
  std::string out;
  if (rng() % 4 == 0) out += kStrange[rng() % kStrange.size()];
  for (std::uint64_t i = rng() % 9; i > 0; --i) out += kTimes[rng() % 10];
  out += rng() % 4 == 0 ? kStrange[rng() % kStrange.size()] : kTimes[10 + rng() % 6];
  return out;
}

std::string valid_session(Rng& rng) {
  constexpr std::uint8_t kEndStream = 1;
  constexpr std::uint8_t kEndHeaders = 4;
  std::string out(1, static_cast<char>(rng()));
  // SETTINGS, now and then with an INITIAL_WINDOW_SIZE.
  out += frame(4, 0, 0, rng() % 2 == 0 ? number(4, 2) + number(rng() % 40, 4) : std::string());
  std::uint64_t opened = 0;
  for (auto left = 1 + rng() % 8; left > 0; --left) {
    const auto encoding = static_cast<Encoding>(rng() % 3);
    const auto stream = opened == 0 ? 1 : 1 + 2 * (rng() % opened);
    switch (rng() % 9) {
      case 0:
        out += frame(3, 0, stream, number(8, 4));  // RST_STREAM
        break;
      case 1:
        out += frame(8, 0, rng() % 2 == 0 ? 0 : stream, number(rng() % 100, 4));  // WINDOW_UPDATE
        break;
      case 2:
        out += rng() % 2 == 0 ? frame(6, 0, 0, "pingpong") : frame(7, 0, 0, number(0, 8));  // PING, GOAWAY
        break;
      case 3:
        out += frame(1, kEndHeaders | kEndStream, stream, header("trailer", "t"));
        break;
      case 4:
        out += frame(0, rng() % 2 == 0 ? kEndStream : 0, stream, messages(rng, encoding));
        break;
      default: {
        const auto number_of = 1 + 2 * opened++;
        out += frame(1, kEndHeaders, number_of, head(rng, encoding));
        out += frame(0, rng() % 2 == 0 ? kEndStream : 0, number_of, messages(rng, encoding));
      }
    }
  }
  return out;
}

}  // namespace starling::fuzz
