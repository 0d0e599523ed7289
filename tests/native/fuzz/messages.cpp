// Messages of a call: however their bytes come, they are the same messages or the same refusal, and no memory is kept.
#include <zlib.h>

#include <optional>

#include "targets.h"
#include "transport/message.h"

namespace starling::fuzz {
namespace {

using transport::Encoding;
using transport::MessageReader;

constexpr std::size_t kMessageMax = 1 << 14;
constexpr std::uint64_t kBudget = 1 << 13;  // so that memory runs out as well

std::string text_of(const Spans& spans) {
  std::string out;
  for (const auto span : spans) out.append(reinterpret_cast<const char*>(span.data()), span.size());
  return out;
}

// Zlib in one go, where the reader goes piece by piece.
std::optional<std::string> inflated(Bytes bytes, Encoding encoding) {
  z_stream stream{};
  require(inflateInit2(&stream, encoding == Encoding::kGzip ? 31 : 15) == Z_OK, "no memory");
  std::string out(kMessageMax + 1, '\0');
  stream.next_in = const_cast<std::uint8_t*>(bytes.data());  // NOLINT: zlib only reads it
  stream.avail_in = static_cast<unsigned>(bytes.size());
  stream.next_out = reinterpret_cast<std::uint8_t*>(out.data());
  stream.avail_out = static_cast<unsigned>(out.size());
  const bool whole = inflate(&stream, Z_FINISH) == Z_STREAM_END && stream.avail_in == 0;
  out.resize(stream.total_out);
  inflateEnd(&stream);
  if (!whole || out.size() > kMessageMax) return std::nullopt;
  return out;
}

struct Read {
  MessageReader::Step last = MessageReader::Step::kMore;
  bool at_start = true;
  std::vector<std::string> messages;
  bool operator==(const Read&) const = default;
};

Read read(const Spans& pieces, Encoding encoding) {
  transport::ReceiveBudget budget(kBudget);
  Read out;
  {
    MessageReader reader(budget, kMessageMax);
    reader.set_encoding(encoding);
    for (auto piece : pieces) {
      while (!piece.empty() && out.last <= MessageReader::Step::kMessage) {
        transport::Message message;
        out.last = reader.read(piece, message);
        if (out.last == MessageReader::Step::kMessage) out.messages.push_back(text_of(message.spans()));
        require(out.last != MessageReader::Step::kMore || piece.empty(), "a reader that stopped before the end");
        require(budget.taken() <= kBudget, "more memory than there is");
      }
    }
    out.at_start = reader.at_start();
  }
  require(budget.taken() == 0, "memory that is not given back");
  return out;
}

}  // namespace

void fuzz_messages(std::size_t step, Bytes stream) {
  if (stream.empty()) return;
  const auto encoding = static_cast<Encoding>(stream[0] % 3U);
  stream = stream.subspan(1);
  const Cut cut(stream, step);
  const auto heard = read(cut.spans, encoding);
  require(heard == read({stream}, encoding), "cutting a stream changed its messages");
  const auto size_of = [](Bytes prefix) {
    return std::size_t{prefix[1]} << 24U | std::size_t{prefix[2]} << 16U | std::size_t{prefix[3]} << 8U | prefix[4];
  };
  for (const auto& message : heard.messages) {
    const auto sent = stream.subspan(5, size_of(stream));
    const auto meant = stream[0] == 0 ? text_of({sent}) : inflated(sent, encoding);
    require(message == meant, "a message came as another");
    stream = stream.subspan(5 + sent.size());
  }
  const bool refused = heard.last == MessageReader::Step::kTooLarge || heard.last == MessageReader::Step::kBadEncoding;
  if (refused && stream[0] == 1 && encoding != Encoding::kIdentity && size_of(stream) <= kMessageMax) {
    require(!inflated(stream.subspan(5, size_of(stream)), encoding), "a compressed message was refused");
  }
}

}  // namespace starling::fuzz
