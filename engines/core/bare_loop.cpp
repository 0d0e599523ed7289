#include "bare_loop.h"

#include <algorithm>

#include "openvino_engine.h"
#include "openvino_graph.h"

namespace starling {
namespace {

constexpr int kWarmUpRuns = 20;

void run(Engine& engine, Batch& batch) {
  std::string error;
  engine.submit(batch, [&error](const std::string& e) { error = e; });
  if (!error.empty()) throw Error(Reason::kEngineFailed, "a run of the bare loop failed: " + error);
}

}  // namespace

double bare_rows_per_s(const std::string& path, std::int64_t rows, double seconds) {
  auto signature = read_graph(path);
  for (auto* specs : {&signature.inputs, &signature.outputs}) {
    for (auto& spec : *specs) {
      const bool fixed =
          !spec.dims.empty() && std::all_of(spec.dims.begin() + 1, spec.dims.end(), [](auto d) { return d > 0; });
      if (!fixed) {
        throw Error(Reason::kInvalidConfig, path + ": \"" + spec.name + "\" is " + to_string(spec.dims) +
                                                "; the bare loop wants a batch and fixed dimensions behind it");
      }
      spec.dims.erase(spec.dims.begin());
    }
  }
  const auto engine = make_openvino_engine(signature, {path, {rows}});
  Batch batch;
  batch.bucket = rows;
  std::vector<std::vector<std::uint8_t>> zeros;
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
    const auto& spec = signature.inputs[i];
    Shape shape{rows};
    shape.insert(shape.end(), spec.dims.begin(), spec.dims.end());
    const auto size = byte_size(spec.data_type, shape.data(), shape.size());
    if (!size)
      throw Error(Reason::kInvalidConfig, path + ": a batch of " + std::to_string(rows) + " rows is too large");
    zeros.emplace_back(*size);
    const std::uint8_t* place = engine->input_place(0, rows, i);
    batch.inputs.push_back({place != nullptr ? place : zeros.back().data(), std::move(shape), zeros.back().size()});
  }
  for (int i = 0; i < kWarmUpRuns; ++i) run(*engine, batch);
  const auto begin = Clock::now();
  const auto until = begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  std::int64_t runs = 0;
  auto now = begin;
  for (; now < until; now = Clock::now(), ++runs) run(*engine, batch);
  engine->close();
  return static_cast<double>(runs * rows) / std::chrono::duration<double>(now - begin).count();
}

}  // namespace starling
