#include "wire.h"

#include <gtest/gtest.h>

namespace starling::wire {
namespace {

Spans spans(const std::vector<std::string>& pieces) {
  Spans out;
  for (const auto& p : pieces) out.emplace_back(reinterpret_cast<const std::uint8_t*>(p.data()), p.size());
  return out;
}

std::string text(const Spans& pieces) {
  std::string out;
  for (const auto p : pieces) out.append(reinterpret_cast<const char*>(p.data()), p.size());
  return out;
}

TEST(Reader, ReadsTheSameHoweverTheMessageIsCut) {
  Writer writer;
  writer.varint(1, 300);
  writer.text(2, "h\xC3\xA9llo");
  writer.packed(3, {1, 416, -1});
  const auto whole = writer.str();
  for (std::size_t cut = 0; cut <= whole.size(); ++cut) {
    const std::vector<std::string> parts{whole.substr(0, cut), "", whole.substr(cut)};
    const auto pieces = spans(parts);
    Reader in(pieces);
    Tag tag;
    std::uint64_t value = 0;
    std::string name;
    Spans bytes;
    std::uint64_t size = 0;
    ASSERT_TRUE(in.tag(tag) && in.varint(value) && in.tag(tag) && in.text(name, 10) && in.tag(tag)) << cut;
    ASSERT_TRUE(in.bytes(bytes, size));
    EXPECT_EQ(value, 300U);
    EXPECT_EQ(name, "h\xC3\xA9llo");
    EXPECT_EQ(text(bytes).size(), 13U);
    EXPECT_FALSE(in.more());
    EXPECT_FALSE(in.failed());
  }
}

TEST(Reader, RefusesLengthsBeyondTheMessage) {
  const std::vector<std::string> parts{std::string("\x0A\x7F") + "short"};
  const auto pieces = spans(parts);
  Reader in(pieces);
  Tag tag;
  std::string out;
  EXPECT_TRUE(in.tag(tag));
  EXPECT_FALSE(in.text(out, 1000));
  EXPECT_TRUE(in.failed());
  EXPECT_FALSE(in.more());
}

TEST(Reader, RefusesOverlongVarintsGroupsAndFieldZero) {
  for (const auto& bad : {std::string(11, '\xFF'), std::string("\x00", 1), std::string("\x0B"), std::string("\x0F")}) {
    const std::vector<std::string> parts{bad};
    const auto pieces = spans(parts);
    Reader in(pieces);
    Tag tag;
    EXPECT_FALSE(in.tag(tag));
  }
}

TEST(Reader, NestedMessageCanNotReadItsParentsBytes) {
  // A nested message of 2 bytes whose field claims 5; the parent has them, the child does not.
  const std::vector<std::string> parts{std::string("\x0A\x02\x0A\x05") + "abcde"};
  const auto pieces = spans(parts);
  Reader in(pieces);
  Tag tag;
  std::uint64_t outer = 0;
  std::string out;
  ASSERT_TRUE(in.tag(tag) && in.enter(outer) && in.tag(tag));
  EXPECT_FALSE(in.text(out, 100));
}

TEST(Writer, KeepsPayloadsByReference) {
  auto buffer = std::make_shared<Buffer>(8192);
  Writer writer;
  writer.bytes(1, buffer, 0, buffer->size());
  writer.bytes(2, buffer, 16, 4);
  const auto size = writer.size();
  const auto flat = writer.str();
  EXPECT_EQ(flat.size(), size);
  const auto message = writer.take();
  ASSERT_EQ(message.payloads.size(), 2U);
  for (const auto& payload : message.payloads) EXPECT_EQ(payload.range.buffer, buffer);
  EXPECT_EQ(message.payloads[0].range.size, buffer->size());
  EXPECT_EQ(message.payloads[1].range.offset, 16U);
  EXPECT_EQ(message.payloads[1].range.size, 4U);
  EXPECT_EQ(message.own.size() + buffer->size() + 4, size);
}

TEST(Utf8, AcceptsTextAndRefusesWhatProtobufRefuses) {
  EXPECT_TRUE(is_utf8("gr\xC3\xBC\xC3\x9F dich \xE2\x9C\x93 \xF0\x9F\x90\xA6"));
  for (const char* bad : {"\xC0\x80", "\xED\xA0\x80", "\xF5\x80\x80\x80", "\xE2\x9C", "\x80", "\xF4\x90\x80\x80"}) {
    EXPECT_FALSE(is_utf8(bad));
  }
}

}  // namespace
}  // namespace starling::wire
