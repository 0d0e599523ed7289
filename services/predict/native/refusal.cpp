#include "refusal.h"

namespace starling::predict {
namespace {

using wire::Writer;

// gRPC peers refuse more than 8 KiB of metadata. A message travels in it twice, once percent-encoded and once in
// the base64 of the details; this bound keeps the worst case below that.
constexpr std::size_t kMessageMax = 1024;

Writer encode_any(std::string_view type, const Writer& value) {
  Writer out;
  out.text(1, "type.googleapis.com/" + std::string(type));
  out.text(2, value.str());
  return out;
}

}  // namespace

std::string clip_message(const std::string& text) {
  if (text.size() <= kMessageMax) return text;
  auto end = kMessageMax - 3;  // room for the mark
  while ((static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return text.substr(0, end) + "…";
}

Writer encode_duration(std::int64_t us) {
  Writer out;
  out.varint(1, static_cast<std::uint64_t>(us / 1'000'000));
  out.varint(2, static_cast<std::uint64_t>(us % 1'000'000 * 1000));
  return out;
}

void write_facts(Writer& out, std::uint32_t field, const Status& status) {
  for (const auto& [key, value] : status.facts) {
    Writer entry;
    entry.text(1, key);
    entry.text(2, value);
    out.message(field, entry);
  }
}

std::string encode_details(const Status& status, int code, std::string_view request_id) {
  Writer info;
  info.text(1, name(status.reason));
  info.text(2, "starling");
  write_facts(info, 3, status);
  if (!request_id.empty()) {
    Writer entry;
    entry.text(1, "request_id");
    entry.text(2, request_id);
    info.message(3, entry);
  }
  Writer out;
  out.varint(1, static_cast<std::uint64_t>(code));
  out.text(2, clip_message(status.message));
  out.message(3, encode_any("google.rpc.ErrorInfo", info));
  if (status.retry_delay_us > 0) {
    Writer retry;
    retry.message(1, encode_duration(status.retry_delay_us));
    out.message(3, encode_any("google.rpc.RetryInfo", retry));
  }
  return out.str();
}

}  // namespace starling::predict
