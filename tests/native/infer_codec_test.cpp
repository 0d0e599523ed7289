#include "infer_codec.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>

namespace starling::predict {
namespace {

using wire::Writer;

// A parsed message and the bytes that the view borrows.
struct Parsed {
  std::string bytes;
  RequestView view;
  Status status;
};

std::unique_ptr<Parsed> parse(const Writer& message) {
  auto parsed = std::make_unique<Parsed>();
  parsed->bytes = message.str();
  const Spans pieces{{reinterpret_cast<const std::uint8_t*>(parsed->bytes.data()), parsed->bytes.size()}};
  parsed->status = InferCodec(InferCodec::Statuses::kOwn).parse(pieces, parsed->view);
  return parsed;
}

Writer parameter(const std::string& key, const Writer& value) {
  Writer entry;
  entry.text(1, key);
  entry.message(2, value);
  return entry;
}

Writer number(std::uint32_t choice, std::uint64_t value) {
  Writer out;
  out.choice(choice, value);
  return out;
}

Writer words(const std::string& value) {
  Writer out;
  out.text(3, value);
  return out;
}

Writer input(const std::string& type, const Shape& shape, const std::vector<Writer>& parameters = {}) {
  Writer out;
  out.text(1, "x");
  out.text(2, type);
  out.packed(3, shape);
  for (const auto& entry : parameters) out.message(4, entry);
  return out;
}

Writer named() {
  Writer out;
  out.text(1, "m");
  return out;
}

std::string bytes_of(const InputTensor& tensor) {
  if (tensor.source != nullptr) {
    std::string decoded(tensor.size_bytes, '?');
    EXPECT_TRUE(tensor.source->read({reinterpret_cast<std::uint8_t*>(decoded.data()), decoded.size()}).ok());
    return decoded;
  }
  std::string out;
  for (const auto piece : tensor.data) out.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  return out;
}

TEST(InferCodec, ReadsEveryField) {
  auto message = named();
  message.text(2, "7");
  message.text(3, "r-1");
  message.message(4, parameter("priority", number(5, 1)));
  message.message(4, parameter("timeout", number(2, 1500)));
  message.message(4, parameter("sequence_id", number(2, static_cast<std::uint64_t>(-4))));
  message.message(4, parameter("sequence_start", number(1, 1)));
  message.message(4, parameter("sequence_end", number(1, 0)));
  message.message(5, input("UINT8", {1, 3}));
  message.message(
      5, input("FP16", {1, 1},
               {parameter("shared_memory_region", words("r")), parameter("shared_memory_byte_size", number(2, 2)),
                parameter("shared_memory_offset", number(2, 64))}));
  Writer classes;
  classes.text(1, "y");
  classes.message(2, parameter("classification", number(2, 5)));
  message.message(6, classes);
  message.text(7, "abc");
  message.text(99, "a field of a later version");
  const auto parsed = parse(message);
  ASSERT_TRUE(parsed->status.ok()) << parsed->status.message;
  const auto& view = parsed->view;
  EXPECT_EQ(view.model_name, "m");
  EXPECT_EQ(view.model_version, 7);
  EXPECT_EQ(view.request_id, "r-1");
  EXPECT_EQ(view.priority, kPriorityMax);
  EXPECT_EQ(view.budget_us, 1500);
  EXPECT_EQ(view.sequence_id, "-4");
  EXPECT_TRUE(view.sequence_start);
  EXPECT_FALSE(view.sequence_end);
  ASSERT_EQ(view.inputs.size(), 2U);
  EXPECT_EQ(view.inputs[0].data_type, DataType::kUint8);
  EXPECT_EQ(view.inputs[0].shape, (Shape{1, 3}));
  EXPECT_EQ(bytes_of(view.inputs[0]), "abc");
  ASSERT_EQ(view.input_regions.size(), 1U);
  EXPECT_EQ(view.input_regions[0].first, 1U);
  EXPECT_EQ(view.input_regions[0].second.region, "r");
  EXPECT_EQ(view.input_regions[0].second.offset, 64U);
  EXPECT_EQ(view.input_regions[0].second.size, 2U);
  ASSERT_EQ(view.outputs.size(), 1U);
  EXPECT_EQ(view.outputs[0].name, "y");
  EXPECT_EQ(view.outputs[0].classes, 5);
}

TEST(InferCodec, MapsTheirPrioritiesToOurs) {
  const std::pair<std::uint64_t, std::int32_t> pairs[] = {{0, 0}, {1, 3}, {2, 2}, {3, 1}, {4, 0}, {99, 0}};
  for (const auto& [theirs, ours] : pairs) {
    auto message = named();
    message.message(4, parameter("priority", number(5, theirs)));
    EXPECT_EQ(parse(message)->view.priority, ours) << theirs;
  }
}

TEST(InferCodec, EveryPrefixOfAMessageIsRefusedOrValid) {
  auto message = named();
  message.message(4, parameter("timeout", number(2, 1)));
  message.message(5, input("FP32", {1, 1}, {parameter("layout", words("x"))}));
  message.text(7, "abcd");
  const auto bytes = message.str();
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    const std::string prefix = bytes.substr(0, n);
    RequestView view;
    const Spans pieces{{reinterpret_cast<const std::uint8_t*>(prefix.data()), n}};
    const auto status = InferCodec(InferCodec::Statuses::kOwn).parse(pieces, view);
    EXPECT_TRUE(status.ok() || !status.message.empty()) << n;
  }
}

// Contents with one field of varints, packed or one by one.
Writer contents(std::uint32_t field, const std::vector<std::int64_t>& values, bool packed) {
  Writer out;
  if (packed) {
    out.packed(field, values);
  } else {
    for (const auto value : values) out.choice(field, static_cast<std::uint64_t>(value));
  }
  return out;
}

TEST(InferCodec, MakesTypedElementsIntoBytes) {
  struct Case {
    const char* type;
    std::uint32_t field;
    std::vector<std::int64_t> values;
    std::string bytes;
  };
  using std::string_literals::operator""s;
  const Case cases[] = {
      {"BOOL", 1, {1, 0}, "\1\0"s},
      {"INT8", 2, {-1, 127}, "\xFF\x7F"s},
      {"INT16", 2, {-2, 1}, "\xFE\xFF\1\0"s},
      {"INT32", 2, {-1, 1}, "\xFF\xFF\xFF\xFF\1\0\0\0"s},
      {"INT64", 3, {-1, 1}, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\1\0\0\0\0\0\0\0"s},
      {"UINT8", 4, {255, 1}, "\xFF\1"s},
      {"UINT16", 4, {258, 1}, "\2\1\1\0"s},
      {"UINT32", 4, {1, 0}, "\1\0\0\0\0\0\0\0"s},
      {"UINT64", 5, {-1, 0}, "\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\0\0\0\0\0\0\0\0"s},
  };
  for (const auto& c : cases) {
    for (const bool packed : {true, false}) {
      auto tensor = input(c.type, {2});
      tensor.message(5, contents(c.field, c.values, packed));
      auto message = named();
      message.message(5, tensor);
      const auto parsed = parse(message);
      ASSERT_TRUE(parsed->status.ok()) << c.type << parsed->status.message;
      EXPECT_EQ(bytes_of(parsed->view.inputs[0]), c.bytes) << c.type;
      EXPECT_EQ(parsed->view.inputs[0].size_bytes, c.bytes.size());
    }
  }
}

TEST(InferCodec, PutsLengthsBeforeTypedBytes) {
  Writer elements;
  elements.element(8, "ab");
  elements.element(8, "");
  auto tensor = input("BYTES", {2});
  tensor.message(5, elements);
  auto message = named();
  message.message(5, tensor);
  const auto parsed = parse(message);
  ASSERT_TRUE(parsed->status.ok()) << parsed->status.message;
  EXPECT_EQ(bytes_of(parsed->view.inputs[0]), std::string("\2\0\0\0ab\0\0\0\0", 10));
  EXPECT_EQ(parsed->view.inputs[0].size_bytes, 10U);
}

TEST(InferCodec, BorrowsPackedFloats) {
  Writer elements;
  elements.text(6, std::string(8, 'f'));
  auto tensor = input("FP32", {2});
  tensor.message(5, elements);
  auto message = named();
  message.message(5, tensor);
  const auto parsed = parse(message);
  ASSERT_TRUE(parsed->status.ok()) << parsed->status.message;
  ASSERT_EQ(parsed->view.inputs[0].data.size(), 1U);
  const auto* data = reinterpret_cast<const char*>(parsed->view.inputs[0].data[0].data());
  EXPECT_GE(data, parsed->bytes.data());
  EXPECT_LE(data + 8, parsed->bytes.data() + parsed->bytes.size());
}

TEST(InferCodec, SaysWhatIsWrong) {
  const auto expect = [](const Writer& message, const char* text) {
    const auto parsed = parse(message);
    EXPECT_EQ(parsed->status.reason, Reason::kInvalidInput) << text;
    EXPECT_NE(parsed->status.message.find(text), std::string::npos) << parsed->status.message;
  };
  const auto with = [](std::uint32_t field, const Writer& value) {
    auto message = named();
    message.message(field, value);
    return message;
  };
  expect({}, "model_name is missing");
  for (const char* version : {"0", "-1", "x", "1.0", " 1", "99999999999999999999"}) {
    auto message = named();
    message.text(2, version);
    expect(message, "model_version is \"");
  }
  expect(with(5, input("FP8", {1})), "input \"x\" has datatype \"FP8\", wanted");
  expect(with(5, input("FP32", {})), "input \"x\" has no shape");
  expect(with(5, input("FP32", {-1})), "has shape [?] with a dimension below 0");
  expect(with(5, input("FP32", Shape(9, 1))), "wanted at most 8 integers");
  expect(with(5, input("FP16", {1})), "is FP16, which has no typed contents; send it raw");
  expect(with(5, input("INT8", {1})), "needs 1 elements, got 0 in int_contents");
  expect(with(5, input("INT8", {std::int64_t{1} << 40, std::int64_t{1} << 40})), "needs more than fit, got 0");
  auto strange = input("INT8", {1});
  strange.message(5, contents(4, {1}, true));
  expect(with(5, strange), "is INT8 and has elements in field 4 of its contents; send all of them in int_contents");
  auto large = input("INT8", {1});
  large.message(5, contents(2, {128}, true));
  expect(with(5, large), "has an element 128 in int_contents, which is no INT8");
  expect(with(5, input("BYTES", {1})), "of shape [1] needs 1 elements, got 0 in bytes_contents");
  expect(with(5, input("BYTES", {std::int64_t{1} << 40, std::int64_t{1} << 40})), "needs more than fit, got 0");
  auto number_as_text = input("BYTES", {1});
  number_as_text.message(5, contents(8, {1}, false));
  expect(with(5, number_as_text), "has malformed contents");
  auto torn = input("FP32", {1});
  Writer odd;
  odd.text(6, "abcde");
  torn.message(5, odd);
  expect(with(5, torn), "has malformed contents");
  auto mixed = with(5, strange);
  mixed.text(7, "a");
  expect(mixed, "has contents beside raw_input_contents; send all inputs raw or none");
  auto many = with(5, input("INT8", {1}));
  many.text(7, "a");
  many.text(7, "b");
  expect(many, "raw_input_contents has 2 element(s), wanted 1, one for each input that is not in shared memory");
  const auto region = parameter("shared_memory_region", words("r"));
  const auto size = parameter("shared_memory_byte_size", number(2, 1));
  expect(with(5, input("INT8", {1}, {region})), "without its size; set shared_memory_byte_size");
  expect(with(5, input("INT8", {1}, {size})), "has a place in shared memory without a region");
  auto both = input("INT8", {1}, {region, size});
  both.message(5, contents(2, {1}, true));
  expect(with(5, both), "has contents and lies in shared memory; choose one");
  const auto negative = parameter("shared_memory_offset", number(2, static_cast<std::uint64_t>(-1)));
  expect(with(5, input("INT8", {1}, {region, size, negative})),
         "parameter `shared_memory_offset` of input \"x\" wants an int64 or uint64 from 0 to 2^63 - 1");
  expect(with(4, parameter("timeout", words("1"))), "parameter `timeout` wants an int64");
  expect(with(4, parameter("sequence_start", number(2, 1))), "parameter `sequence_start` wants a bool");
  expect(with(4, parameter("sequence_id", number(1, 1))), "parameter `sequence_id` wants");
  expect(with(4, parameter("triton_final_response", number(1, 1))), "`triton_` are reserved");
  Writer output;
  output.text(1, "y");
  auto twice = with(6, output);
  twice.message(6, output);
  expect(twice, "output \"y\" is asked for twice");
  Writer torn_choice = output;
  torn_choice.message(2, parameter("classification", number(2, 2)));
  torn_choice.message(2, region);
  torn_choice.message(2, size);
  expect(with(6, torn_choice), "is asked for as classes and in shared memory");
}

// The fields of a message: number and payload, of the length-delimited ones.
std::vector<std::pair<std::uint32_t, std::string>> fields(const std::string& message) {
  const Spans pieces{{reinterpret_cast<const std::uint8_t*>(message.data()), message.size()}};
  wire::Reader in(pieces);
  std::vector<std::pair<std::uint32_t, std::string>> out;
  wire::Tag tag;
  Spans spans;
  std::uint64_t size = 0;
  while (in.more() && in.tag(tag) && in.bytes(spans, size)) {
    std::string payload;
    for (const auto s : spans) payload.append(reinterpret_cast<const char*>(s.data()), s.size());
    out.emplace_back(tag.field, payload);
  }
  EXPECT_FALSE(in.failed());
  return out;
}

class InferAnswer : public ::testing::Test {
 protected:
  InferAnswer() {
    config_.name = "m";
    config_.version = 3;
    config_.signature.outputs = {{"a", DataType::kFp32, {2}}, {"b", DataType::kInt8, {-1}}};
    config_.labels["a"] = {"cat", "dog"};
    auto buffer = std::make_shared<Buffer>(16);
    const float values[] = {1, 3, 2, -1};
    std::memcpy(buffer->data(), values, sizeof(values));
    outputs_.push_back({&config_.signature.outputs[0], {2, 2}, buffer, 0, 16});
    outputs_.push_back({&config_.signature.outputs[1], {2, 0}, std::make_shared<Buffer>(0), 0, 0});
  }

  std::string encode(const RequestView& request) {
    const Answer answer{config_, outputs_, {}};
    return InferCodec(InferCodec::Statuses::kOwn).encode(answer, request).str();
  }

  ModelConfig config_;
  std::vector<OutputTensor> outputs_;
};

TEST_F(InferAnswer, HasOneRawElementForEachOutputAlsoForAnEmptyOne) {
  const auto message = fields(encode({}));
  ASSERT_EQ(message.size(), 6U);
  EXPECT_EQ(message[0].second, "m");
  EXPECT_EQ(message[1].second, "3");
  EXPECT_EQ(message[2].first, 5U);
  EXPECT_EQ(message[4].first, 6U);
  EXPECT_EQ(message[4].second.size(), 16U);
  EXPECT_EQ(message[5], (std::pair<std::uint32_t, std::string>{6, ""}));
}

TEST_F(InferAnswer, LabelsTheBestElements) {
  RequestView request;
  request.outputs.push_back({"a", 1, {}});
  const auto message = fields(encode(request));
  ASSERT_EQ(message.size(), 4U);
  EXPECT_EQ(message[3].second,
            std::string("\x0E\0\0\0", 4) + "3.000000:1:dog" + std::string("\x0E\0\0\0", 4) + "2.000000:0:cat");
}

TEST_F(InferAnswer, OrdersHalvesAsNumbers) {
  // The largest FP16 and the smallest, infinity, NaN; of BF16 -1, 1, 2 and -infinity.
  const std::uint16_t halves[2][4] = {{0x7BFF, 0x0001, 0x7C00, 0x7E00}, {0xBF80, 0x3F80, 0x4000, 0xFF80}};
  const std::vector<std::string> wanted[] = {{"inf:2", "65504.000000:0", "0.000000:1", "nan:3"},
                                             {"2.000000:2", "1.000000:1", "-1.000000:0", "-inf:3"}};
  for (int i = 0; i < 2; ++i) {
    config_.signature.outputs = {{"c", i == 0 ? DataType::kFp16 : DataType::kBf16, {4}}};
    auto buffer = std::make_shared<Buffer>(8);
    std::memcpy(buffer->data(), halves[i], 8);
    outputs_ = {{&config_.signature.outputs[0], {1, 4}, buffer, 0, 8}};
    RequestView request;
    request.outputs.push_back({"c", 4, {}});
    std::string all;
    for (const auto& one : wanted[i]) all += std::string{static_cast<char>(one.size()), 0, 0, 0} + one;
    EXPECT_EQ(fields(encode(request)).back().second, all);
  }
}

TEST_F(InferAnswer, SaysWhereInSharedMemoryAnOutputLies) {
  RequestView request;
  request.outputs.push_back({"a", 0, RegionRange{"r", 0, 100}});
  const auto message = fields(encode(request));
  ASSERT_EQ(message.size(), 4U);
  EXPECT_EQ(message[3], (std::pair<std::uint32_t, std::string>{6, ""}));  // clients count on one for each output
  const auto tensor = fields(message[2].second);
  ASSERT_EQ(tensor.size(), 6U);
  EXPECT_EQ(fields(tensor[4].second)[0].second, "shared_memory_byte_size");
}

TEST(InferCodec, GivesTritonsCodesWhenAskedTo) {
  const InferCodec own(InferCodec::Statuses::kOwn);
  const InferCodec triton(InferCodec::Statuses::kTriton);
  for (const auto reason : {Reason::kQueueFull, Reason::kDeadlinePassed, Reason::kDeadlineUnmeetable,
                            Reason::kModelNotReady, Reason::kSuperseded, Reason::kSequencesFull}) {
    EXPECT_EQ(triton.code(reason), 14);
    EXPECT_EQ(own.code(reason), canonical_code(reason));
  }
  for (const auto reason : {Reason::kInvalidInput, Reason::kModelNotFound, Reason::kEngineFailed, Reason::kCancelled}) {
    EXPECT_EQ(triton.code(reason), canonical_code(reason));
  }
}

}  // namespace
}  // namespace starling::predict
