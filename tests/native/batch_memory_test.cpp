#include "batch_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <numeric>
#include <random>

#include "byte_elements.h"
#include "identity_engine.h"

namespace starling {
namespace {

using Bytes = std::vector<std::uint8_t>;

// Borrows the bytes of its inputs from `given`, in pieces as they may come off the wire.
class Rows final : public Request {
 public:
  void complete(Result&&) noexcept override {}

  std::vector<Bytes> given;  // by input
};

// Where an output is wanted elsewhere.
class Sink final : public ByteSink {
 public:
  Status write(const TensorSpec&, std::span<const std::uint8_t> bytes) const override {
    written.assign(bytes.begin(), bytes.end());
    return {};
  }
  mutable Bytes written;
};

// Reads its inputs where it keeps them, if told to; what is left there of an earlier batch is noise.
class PlacedEngine final : public Engine {
 public:
  PlacedEngine(Signature signature, bool placed) : inner_(std::move(signature), {}), placed_(placed) {}
  std::string kind() const override { return "placed"; }
  const Signature& signature() const noexcept override { return inner_.signature(); }
  int slots() const noexcept override { return 1; }
  std::uint8_t* input_place(int, std::int64_t, std::size_t index) noexcept override {
    return placed_ ? places_[index].data() : nullptr;
  }
  void submit(Batch& batch, Done done) override { inner_.submit(batch, std::move(done)); }
  void close() override {}

 private:
  static constexpr std::size_t kRoom = 1 << 16;

  IdentityEngine inner_;
  bool placed_;
  std::array<Bytes, 2> places_{Bytes(kRoom, 0xEE), Bytes(kRoom, 0xEE)};
};

class Fleet {
 public:
  explicit Fleet(unsigned seed) : rng_(seed) {}

  std::int64_t pick(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(rng_);
  }

  Bytes elements(DataType type, std::int64_t count) {
    Bytes bytes;
    const auto add = [&](std::int64_t n) {
      while (n-- > 0) bytes.push_back(static_cast<std::uint8_t>(pick(1, 255)));
    };
    if (type != DataType::kBytes) {
      add(count * static_cast<std::int64_t>(width(type)));
      return bytes;
    }
    for (; count > 0; --count) {
      const auto size = pick(0, 9);
      bytes.resize(bytes.size() + width(type));
      put_length(bytes.data() + bytes.size() - width(type), static_cast<std::size_t>(size));
      add(size);
    }
    return bytes;
  }

  // A request of that many rows for these inputs, whose dimensions are known.
  std::unique_ptr<Rows> request(const Signature& signature, const std::vector<Shape>& dims, std::int64_t rows) {
    auto request = std::make_unique<Rows>();
    request->rows = rows;
    request->given.resize(dims.size());
    for (std::size_t i = 0; i < dims.size(); ++i) {
      Shape shape{rows};
      shape.insert(shape.end(), dims[i].begin(), dims[i].end());
      const auto count = std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
      auto& bytes = request->given[i];
      bytes = elements(signature.inputs[i].data_type, count);
      Spans pieces;
      for (std::span<const std::uint8_t> left(bytes); !left.empty();) {
        const auto size = static_cast<std::size_t>(pick(1, static_cast<std::int64_t>(left.size())));
        pieces.push_back(left.first(size));
        left = left.subspan(size);
      }
      request->inputs.push_back(
          {signature.inputs[i].name, signature.inputs[i].data_type, shape, std::move(pieces), bytes.size()});
    }
    return request;
  }

 private:
  std::mt19937_64 rng_;
};

Bytes bytes_of(const OutputTensor& output) {
  const auto* begin = output.buffer->data() + output.offset;
  return {begin, begin + output.size};
}

// Batch after batch through one memory, as a slot has it: of every type, of requests of several rows, larger than they
// are together, so that the last rows are nobody's.
void split_batches_of(DataType type, bool placed) {
  Fleet fleet(static_cast<unsigned>(type));
  BatchMemory memory;
  const auto other = static_cast<DataType>(fleet.pick(1, kDataTypeCount - 1));
  ModelConfig config;
  config.signature = {{{"a", type, {-1}}, {"b", other, {-1, 2}}}, {{"x", type, {-1}}, {"y", other, {-1, 2}}}};
  PlacedEngine engine(config.signature, placed);
  for (int batches = 0; batches < 100; ++batches) {
    const std::vector<Shape> dims{{fleet.pick(1, 5)}, {fleet.pick(1, 3), 2}};
    Batch batch;
    batch.bucket = fleet.pick(1, 8);
    std::vector<std::unique_ptr<Rows>> owned;
    std::vector<Request*> requests;
    for (auto room = batch.bucket; room > 0 && (requests.empty() || fleet.pick(0, 3) > 0);) {
      owned.push_back(fleet.request(config.signature, dims, fleet.pick(1, room)));
      requests.push_back(owned.back().get());
      room -= requests.back()->rows;
    }
    auto& elsewhere = *owned[static_cast<std::size_t>(fleet.pick(0, std::ssize(owned) - 1))];
    const auto sink = std::make_shared<Sink>();
    elsewhere.sinks = {nullptr, sink};
    ASSERT_FALSE(memory.gather(config, requests, engine, batch));
    for (std::size_t i = 0; i < 2; ++i) {
      Bytes all;
      for (const auto& request : owned) all.insert(all.end(), request->given[i].begin(), request->given[i].end());
      const auto& input = batch.inputs[i];
      ASSERT_EQ(input.shape.front(), batch.bucket);
      ASSERT_GE(input.size, all.size());
      ASSERT_TRUE(std::equal(all.begin(), all.end(), input.data));
      ASSERT_TRUE(std::all_of(input.data + all.size(), input.data + input.size, [](auto byte) { return byte == 0; }));
      // Those rows nobody asked for are whole ones, of empty elements where these have no fixed size.
      const auto& dim = dims[i];
      const auto row = std::accumulate(dim.begin(), dim.end(), std::int64_t{1}, std::multiplies<>());
      std::int64_t rows = 0;
      for (const auto* request : requests) rows += request->rows;
      const auto left = static_cast<std::size_t>(row * (batch.bucket - rows));
      ASSERT_EQ(input.size - all.size(), left * width(config.signature.inputs[i].data_type));
    }
    engine.submit(batch, [](const std::string& error) { ASSERT_EQ(error, ""); });
    const auto scattered = scatter(config, requests, batch);
    ASSERT_EQ(scattered.size(), owned.size());
    for (std::size_t r = 0; r < owned.size(); ++r) {
      ASSERT_TRUE(scattered[r].status.ok());
      for (std::size_t o = 0; o < 2; ++o) {
        const auto& output = scattered[r].outputs[o];
        const bool written = owned[r].get() == &elsewhere && o == 1;
        ASSERT_EQ(output.shape, owned[r]->inputs[o].shape);
        ASSERT_EQ(output.size, owned[r]->given[o].size());
        ASSERT_EQ(written ? sink->written : bytes_of(output), owned[r]->given[o]) << name(type) << " row " << r;
      }
    }
  }
}

TEST(BatchMemory, EveryRequestGetsItsOwnRowsOfEveryType) {
  for (int type = 1; type < kDataTypeCount; ++type) {
    for (const bool placed : {false, true}) split_batches_of(static_cast<DataType>(type), placed);
  }
}

TEST(BatchMemory, AnEngineThatReturnsAnotherBatchIsAMistakeAndNotAnAnswer) {
  ModelConfig config;
  config.signature = {{{"a", DataType::kFp32, {2}}}, {{"x", DataType::kFp32, {2}}}};
  Fleet fleet(1);
  const auto request = fleet.request(config.signature, {{2}}, 2);
  const Bytes computed(64);
  Batch batch;
  batch.bucket = 4;
  for (const Shape& shape : {Shape{3, 2}, Shape{8, 2}, Shape{}}) {
    batch.outputs = {{computed.data(), shape, computed.size()}};
    EXPECT_THROW(scatter(config, {request.get()}, batch), std::runtime_error) << to_string(shape);
  }
  batch.outputs = {{computed.data(), {4, 2}, computed.size()}};
  EXPECT_EQ(scatter(config, {request.get()}, batch).front().outputs.front().size, 16U);
}

TEST(BatchMemory, TextsThatEndBeforeTheirShapeDoesAreAMistakeAndNotAnAnswer) {
  ModelConfig config;
  config.signature = {{{"a", DataType::kBytes, {1}}}, {{"x", DataType::kBytes, {1}}}};
  Fleet fleet(2);
  const auto request = fleet.request(config.signature, {{1}}, 2);
  const Bytes computed{1, 0, 0, 0, 'a', 2, 0, 0, 0, 'b'};  // the second has lost a byte
  Batch batch;
  batch.bucket = 2;
  batch.outputs = {{computed.data(), {2, 1}, computed.size()}};
  EXPECT_THROW(scatter(config, {request.get()}, batch), std::runtime_error);
}

}  // namespace
}  // namespace starling
