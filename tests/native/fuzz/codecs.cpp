// Requests: any bytes, cut into any pieces, parse or are refused with a reason, the same way however they are cut.
#include "infer_codec.h"
#include "predict_codec.h"
#include "refusal.h"
#include "targets.h"

namespace starling::fuzz {
namespace {

// Reads every borrowed byte, so that AddressSanitizer sees a span that leaves the message.
std::uint64_t touch(const predict::RequestView& view, bool accepted) {
  std::uint64_t sum = view.model_name.size();
  for (const auto& input : view.inputs) {
    std::uint64_t size = 0;
    if (input.source != nullptr) {
      std::vector<std::uint8_t> decoded(input.size_bytes);
      require(input.data.empty() && input.source->read(decoded).ok(), "typed elements that can not be decoded");
      for (const auto byte : decoded) sum += byte;
      size = decoded.size();
    }
    for (const auto piece : input.data) {
      for (const auto byte : piece) sum += byte;
      size += piece.size();
    }
    require(size == input.size_bytes, "a tensor's pieces do not add up to its size");
    require(!accepted || input.shape.size() <= kMaxRank, "an accepted tensor's rank is over the limit");
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

void fuzz_codec(bool infer, bool stream, std::size_t step, Bytes message) {
  static const predict::PredictCodec predict_codec;
  static const predict::InferCodec infer_codec(predict::InferCodec::Statuses::kOwn);
  const predict::Codec& codec = infer ? static_cast<const predict::Codec&>(infer_codec) : predict_codec;
  const Cut parts(message, step);
  const Cut one(message, message.size() + 1);
  const auto& cut = parts.spans;
  const auto& whole = one.spans;
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
}

}  // namespace starling::fuzz
