// wire::Reader: whatever is read in whatever order, it stays inside, and pieces make no difference.
#include "targets.h"
#include "wire.h"

namespace starling::fuzz {
namespace {

// What a reader said and gave, operation by operation.
struct Heard {
  std::vector<std::uint64_t> facts;
  void add(bool ok, std::uint64_t value) {
    facts.push_back(ok ? 1 : 0);
    facts.push_back(value);
  }
};

std::uint64_t sum(const Spans& spans) {
  std::uint64_t total = 0;
  for (const auto span : spans) {
    for (const auto byte : span) total = total * 31 + byte;
  }
  return total;
}

// The first half of the input says what to do, the second half is read.
Heard play(Bytes operations, const Spans& message) {
  Heard heard;
  wire::Reader in(message);
  std::vector<std::uint64_t> outer;
  for (const auto operation : operations) {
    std::uint64_t value = 0;
    std::uint32_t small = 0;
    wire::Tag tag;
    Spans spans;
    std::string text;
    std::vector<std::int64_t> numbers;
    switch (operation % 10U) {
      case 0:
        heard.add(in.tag(tag), tag.field);
        break;
      case 1:
        heard.add(in.varint(value), value);
        break;
      case 2: {
        const bool read = in.text(text, operation);
        require(wire::is_utf8(text) || !read, "a text that is none");
        heard.add(read, text.size());
        break;
      }
      case 3: {
        const bool read = in.bytes(spans, value);
        heard.add(read, sum(spans) ^ value);
        break;
      }
      case 4:
        heard.add(in.fixed32(small), small);
        break;
      case 5: {
        const bool read = in.fixed(spans, operation / 10U);
        heard.add(read, sum(spans));
        break;
      }
      case 6:
        heard.add(in.integers(operation > 100 ? wire::Type::kBytes : wire::Type::kVarint, numbers, 8), numbers.size());
        break;
      case 7:
        heard.add(in.skip(static_cast<wire::Type>(operation / 10U % 6U)), in.left());
        break;
      case 8:
        if (in.enter(value)) outer.push_back(value);
        heard.add(!in.failed(), in.left());
        break;
      default:
        if (outer.empty()) break;
        in.leave(outer.back());
        outer.pop_back();
        heard.add(!in.failed(), in.left());
    }
  }
  return heard;
}

}  // namespace

void fuzz_reader(std::size_t step, Bytes operations) {
  const auto half = operations.size() / 2;
  const Cut cut(operations.subspan(half), step);
  const Cut whole(operations.subspan(half), operations.size() + 1);
  require(play(operations.first(half), cut.spans).facts == play(operations.first(half), whole.spans).facts,
          "cutting a message changed what is read of it");
}

}  // namespace starling::fuzz
