// The entry point of every fuzzer: the first byte chooses the target, the second how the rest is cut into pieces.
#include "targets.h"

namespace starling::fuzz {

Cut::Cut(Bytes bytes, std::size_t step) {
  for (std::size_t at = 0; at < bytes.size(); at += step) {
    const auto part = bytes.subspan(at, std::min(step, bytes.size() - at));
    parts.emplace_back(part.begin(), part.end());
  }
  for (const auto& part : parts) spans.emplace_back(part.data(), part.size());
}

}  // namespace starling::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace starling::fuzz;
  if (size < 2) return 0;
  const std::size_t step = 1 + data[1] % 61U;
  const Bytes rest(data + 2, size - 2);
  switch (const auto target = data[0] % 10U) {
    case 4:
      fuzz_reader(step, rest);
      break;
    case 5:
      fuzz_elements(step, rest);
      break;
    case 6:
      fuzz_regions(rest);
      break;
    case 7:
      fuzz_messages(step, rest);
      break;
    case 8:
      fuzz_metadata(rest);
      break;
    case 9:
      fuzz_connection(step, rest);
      break;
    default:
      fuzz_codec((target & 2U) != 0, (target & 1U) != 0, step, rest);
  }
  return 0;
}
