#include "predict_codec.h"

#include <gtest/gtest.h>

#include <limits>

#include "refusal.h"

namespace starling::predict {
namespace {

wire::Writer tensor(const std::string& name, int type, const Shape& shape, const std::string& data) {
  wire::Writer out;
  out.text(1, name);
  out.varint(2, static_cast<std::uint64_t>(type));
  out.packed(3, shape);
  out.text(4, data);
  return out;
}

Status parse(const std::string& message, RequestView& view) {
  const Spans pieces{{reinterpret_cast<const std::uint8_t*>(message.data()), message.size()}};
  return PredictCodec().parse(pieces, view);
}

TEST(PredictCodec, ReadsEveryField) {
  wire::Writer budget;
  budget.varint(1, 1);
  budget.varint(2, 500'000'000);
  wire::Writer writer;
  writer.text(1, "nanodet");
  writer.varint(2, 7);
  writer.text(3, "r-1");
  writer.message(4, tensor("frame", 2, {1, 2, 2, 3}, "abcdefghijkl"));
  writer.text(5, "boxes");
  writer.text(6, "cam-3");
  writer.varint(7, 42);
  writer.varint(8, 2);
  writer.message(9, budget);
  wire::Writer policy;
  policy.message(1, budget);
  policy.fixed32(2, 0x3F000000);  // 0.5
  writer.message(10, policy);
  wire::Writer smaller;
  smaller.text(1, "nanodet-small");
  writer.message(11, smaller);
  wire::Writer last;
  last.message(3, budget);
  writer.message(11, last);
  writer.text(12, "microphone-1");
  writer.varint(13, 1);
  writer.varint(14, 1);
  writer.text(99, "a field of a later version");
  const auto bytes = writer.str();
  RequestView view;
  ASSERT_TRUE(parse(bytes, view).ok());
  EXPECT_EQ(view.model_name, "nanodet");
  EXPECT_EQ(view.model_version, 7);
  EXPECT_EQ(view.request_id, "r-1");
  ASSERT_EQ(view.inputs.size(), 1U);
  EXPECT_EQ(view.inputs[0].shape, (Shape{1, 2, 2, 3}));
  EXPECT_EQ(view.inputs[0].size_bytes, 12U);
  ASSERT_EQ(view.outputs.size(), 1U);
  EXPECT_EQ(view.outputs[0].name, "boxes");
  EXPECT_EQ(view.stream_id, "cam-3");
  EXPECT_EQ(view.sequence, 42);
  EXPECT_EQ(view.sequence_id, "microphone-1");
  EXPECT_TRUE(view.sequence_start);
  EXPECT_TRUE(view.sequence_end);
  EXPECT_EQ(view.priority, 2);
  EXPECT_EQ(view.budget_us, 1'500'000);
  ASSERT_TRUE(view.cache);
  EXPECT_EQ(view.cache->staleness_max_us, 1'500'000);
  EXPECT_EQ(view.cache->similarity_min, 0.5);
  ASSERT_EQ(view.allow.size(), 2U);
  EXPECT_EQ(view.allow[0].kind, Alternative::Kind::kModel);
  EXPECT_EQ(view.allow[0].model_name, "nanodet-small");
  EXPECT_EQ(view.allow[1].kind, Alternative::Kind::kLastValue);
  EXPECT_EQ(view.allow[1].cache.staleness_max_us, 1'500'000);
}

TEST(PredictCodec, FramesAreSimilarFromNineteenTwentiethsOnUnlessTheRequestSaysOtherwise) {
  wire::Writer age;
  age.varint(1, 1);
  wire::Writer policy;
  policy.message(1, age);
  wire::Writer writer;
  writer.text(1, "nanodet");
  writer.message(10, policy);
  RequestView view;
  const auto bytes = writer.str();
  ASSERT_TRUE(parse(bytes, view).ok());
  ASSERT_TRUE(view.cache);
  EXPECT_EQ(view.cache->similarity_min, 0.95);
}

TEST(PredictCodec, EveryPrefixOfAMessageIsRefusedOrValid) {
  wire::Writer writer;
  writer.text(1, "m");
  writer.message(4, tensor("x", 12, {1, 1}, "abcd"));
  const auto bytes = writer.str();
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    RequestView view;
    const auto status = parse(bytes.substr(0, n), view);
    if (!status.ok()) {
      EXPECT_EQ(status.reason, Reason::kInvalidInput);
      EXPECT_FALSE(status.message.empty());
    }
  }
}

TEST(PredictCodec, SaysWhichFieldIsWrong) {
  const auto refusal = [](const wire::Writer& writer) {
    RequestView view;
    const auto status = parse(writer.str(), view);
    EXPECT_EQ(status.reason, Reason::kInvalidInput);
    return status.message;
  };
  const auto named = [] {
    wire::Writer writer;
    writer.text(1, "m");
    return writer;
  };
  EXPECT_NE(refusal({}).find("model_name is missing"), std::string::npos);
  auto bad_utf8 = named();
  bad_utf8.text(3, "\xC0\x80");
  EXPECT_NE(refusal(bad_utf8).find("`request_id`"), std::string::npos);
  auto long_id = named();
  long_id.text(3, std::string(129, 'a'));
  EXPECT_NE(refusal(long_id).find("128 bytes"), std::string::npos);
  auto nameless = named();
  nameless.varint(13, 1);
  EXPECT_NE(refusal(nameless).find("without sequence_id; name the sequence"), std::string::npos);
  auto no_type = named();
  no_type.message(4, tensor("x", 0, {1}, "a"));
  EXPECT_NE(refusal(no_type).find("data_type"), std::string::npos);
  auto strange_type = named();
  strange_type.message(4, tensor("x", 77, {1}, "a"));
  EXPECT_NE(refusal(strange_type).find("data_type"), std::string::npos);
  auto no_shape = named();
  no_shape.message(4, tensor("x", 2, {}, "a"));
  EXPECT_NE(refusal(no_shape).find("no shape"), std::string::npos);
  auto rank = named();
  rank.message(4, tensor("x", 2, Shape(9, 1), "a"));
  EXPECT_NE(refusal(rank).find("at most 8"), std::string::npos);
  auto priority = named();
  priority.varint(8, 9);
  EXPECT_NE(refusal(priority).find("priority is 9"), std::string::npos);
  wire::Writer negative;
  negative.varint(1, static_cast<std::uint64_t>(-1));
  auto budget = named();
  budget.message(9, negative);
  EXPECT_NE(refusal(budget).find("budget is"), std::string::npos);
  auto tensors = named();
  for (int i = 0; i < 65; ++i) tensors.message(4, tensor("x", 2, {1}, "a"));
  EXPECT_NE(refusal(tensors).find("at most 64"), std::string::npos);
}

TEST(PredictCodec, RefusesBudgetsThatNoDurationHolds) {
  // The first is one second too long; the second is more microseconds than an int64 holds.
  for (const std::int64_t seconds : {315'576'000'001, 9'223'372'036'854, std::numeric_limits<std::int64_t>::min()}) {
    wire::Writer budget;
    budget.varint(1, static_cast<std::uint64_t>(seconds));
    budget.varint(2, 999'999'999);
    wire::Writer request;
    request.text(1, "m");
    request.message(9, budget);
    RequestView view;
    EXPECT_NE(parse(request.str(), view).message.find("field `budget`"), std::string::npos) << seconds;
  }
}

TEST(PredictCodec, DoesNotKeepWhatIsNoText) {
  wire::Writer request;
  request.text(3, "a\xFFz");
  RequestView view;
  EXPECT_FALSE(parse(request.str(), view).ok());
  EXPECT_EQ(view.request_id, "");
}

TEST(PredictCodec, CutsLongMessagesBetweenCharacters) {
  EXPECT_EQ(clip_message(std::string(1024, 'a')), std::string(1024, 'a'));
  for (const std::string start : {"", "a", "aa"}) {
    auto text = start;
    while (text.size() < 2000) text += "€";
    const auto clipped = clip_message(text);
    EXPECT_LE(clipped.size(), 1024U);
    EXPECT_GT(clipped.size(), 1018U);
    EXPECT_TRUE(wire::is_utf8(clipped));
    EXPECT_TRUE(clipped.ends_with("…"));
  }
}

}  // namespace
}  // namespace starling::predict
