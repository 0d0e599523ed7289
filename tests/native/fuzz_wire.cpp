// Fuzz entry point of the wire parsers: any bytes, cut into any pieces, must parse or be refused with a reason,
// the same way however they are cut.
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "infer_codec.h"
#include "predict_codec.h"
#include "refusal.h"

namespace {

void require(bool ok, const char* what) {
  if (ok) return;
  std::fprintf(stderr, "fuzz_wire: %s\n", what);
  std::abort();
}

// Reads every borrowed byte, so that AddressSanitizer sees a span that leaves the message.
std::uint64_t touch(const starling::predict::RequestView& view, bool accepted) {
  std::uint64_t sum = view.model_name.size();
  for (const auto& input : view.inputs) {
    std::uint64_t size = 0;
    for (const auto piece : input.data) {
      for (const auto byte : piece) sum += byte;
      size += piece.size();
    }
    require(size == input.size_bytes, "a tensor's pieces do not add up to its size");
    require(!accepted || input.shape.size() <= starling::kMaxRank, "an accepted tensor's rank is over the limit");
  }
  for (const auto& [index, range] : view.input_regions) {
    require(index < view.inputs.size(), "a range of shared memory for no input");
    require(!accepted || (!range.region.empty() && view.inputs[index].data.empty()), "an input in two places");
    sum += range.offset ^ range.size;
  }
  for (const auto& wanted : view.outputs) sum += wanted.name.size() + static_cast<std::uint64_t>(wanted.classes);
  return sum;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace starling;
  if (size < 2) return 0;
  static const predict::PredictCodec predict_codec;
  static const predict::InferCodec infer_codec(predict::InferCodec::Statuses::kOwn);
  const bool stream = (data[0] & 1U) != 0;
  const predict::Codec& codec = (data[0] & 2U) != 0 ? static_cast<const predict::Codec&>(infer_codec) : predict_codec;
  const std::size_t step = 1 + data[1] % 61U;
  data += 2;
  size -= 2;
  // Each piece is its own allocation, as gRPC's slices are.
  std::vector<std::vector<std::uint8_t>> parts;
  for (std::size_t at = 0; at < size; at += step) parts.emplace_back(data + at, data + std::min(size, at + step));
  Spans cut;
  for (const auto& part : parts) cut.emplace_back(part.data(), part.size());
  const std::vector<std::uint8_t> copy(data, data + size);
  const Spans whole{{copy.data(), copy.size()}};

  predict::RequestView a;
  predict::RequestView b;
  const auto first = stream ? codec.parse_streamed(cut, a) : codec.parse(cut, a);
  const auto second = stream ? codec.parse_streamed(whole, b) : codec.parse(whole, b);
  require(first.message == second.message, "cutting the message changed the verdict");
  require(touch(a, first.ok()) == touch(b, first.ok()), "cutting the message changed the tensors");
  require(first.ok() || !first.message.empty(), "a refusal without a reason");
  require(wire::is_utf8(a.request_id) && wire::is_utf8(first.message), "a refusal that is no text");
  if (!first.ok()) {
    require(!predict::encode_details(first, codec.code(first.reason), a.request_id).empty(),
            "a refusal without details");
    require(codec.encode_refusal(first, a).size() > 0, "a refusal without a message");
  }
  return 0;
}
