// Texts of headers and trailers: a time is read or refused as the grammar says, what is encoded can be decoded.
#include "transport/metadata.h"

#include <algorithm>
#include <map>

#include "targets.h"

namespace starling::fuzz {
namespace {

using std::chrono::nanoseconds;

// TimeoutValue of gRPC's grammar: one to eight digits, then a unit.
std::optional<nanoseconds> time_in(std::string_view text) {
  static const std::map<char, nanoseconds> units{
      {'H', std::chrono::hours(1)},        {'M', std::chrono::minutes(1)},      {'S', std::chrono::seconds(1)},
      {'m', std::chrono::milliseconds(1)}, {'u', std::chrono::microseconds(1)}, {'n', nanoseconds(1)}};
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (text.size() < 2 || text.size() > 9 || !std::ranges::all_of(text.substr(0, text.size() - 1), is_digit)) return {};
  const auto unit = units.find(text.back());
  if (unit == units.end()) return {};
  const auto count = std::stoll(std::string(text));
  // Whole milliseconds were rounded up by their caller.
  if (text.back() == 'm' && count > 0) return unit->second * count - std::chrono::microseconds(500);
  // A year is for ever.
  return unit->second * (text.back() == 'H' ? std::min(count, 24LL * 365) : count);
}

std::string percent_decoded(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const bool coded = text[0] == '%';
    require(coded ? text.size() >= 3 : text[0] >= 0x20 && text[0] < 0x7F, "a text that no header can hold");
    out += coded ? static_cast<char>(std::stoi(std::string(text.substr(1, 2)), nullptr, 16)) : text[0];
    text.remove_prefix(coded ? 3 : 1);
  }
  return out;
}

std::string base64_decoded(std::string_view text) {
  static constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const auto digit = kDigits.find(c);
    require(digit != std::string_view::npos, "no digit of base64");
    bits = bits << 6U | static_cast<std::uint32_t>(digit);
    if ((count += 6) >= 8) out += static_cast<char>(bits >> (count -= 8));
  }
  require((bits & ((1U << count) - 1U)) == 0, "bits behind the end");
  return out;
}

}  // namespace

void fuzz_metadata(Bytes bytes) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  require(transport::parse_timeout(text) == time_in(text), "a timeout is read as the grammar does not");
  require(percent_decoded(transport::percent_encode(text)) == text, "a text came back as another");
  require(base64_decoded(transport::base64_encode(text)) == text, "bytes came back as others");
}

}  // namespace starling::fuzz
