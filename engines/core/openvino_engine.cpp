#include "openvino_engine.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <openvino/openvino.hpp>

#include "byte_elements.h"
#include "openvino_graph.h"

namespace starling {
namespace {

// Binding another tensor to an infer request costs about 3.5 us, as long as copying this many bytes: inputs up to
// here are written into tensors that stay bound, larger ones are read where they are.
constexpr std::size_t kBoundBytesMax = std::size_t{64} << 10;

constexpr std::array<ov::element::Type_t, kDataTypeCount> kElementTypes{
    ov::element::dynamic, ov::element::boolean, ov::element::u8,  ov::element::u16, ov::element::u32,
    ov::element::u64,     ov::element::i8,      ov::element::i16, ov::element::i32, ov::element::i64,
    ov::element::f16,     ov::element::bf16,    ov::element::f32, ov::element::f64, ov::element::string};

ov::element::Type element_type(DataType type) { return kElementTypes[static_cast<std::size_t>(type)]; }

// One runtime for the process: plugins load once.
ov::Core& runtime() {
  static ov::Core core;
  return core;
}

// Without AMX the default bf16 is 1.4 to 1.6 times slower than f32 for convolutions, so it is asked for
// only where the CPU has the tile unit (CPUID leaf 7, EDX bit 22: AMX-BF16).
bool has_amx_bf16() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (1U << 22U)) != 0;
}

template <typename Port>
std::string node_text(const Port& port) {
  return port.get_element_type().to_string() + port.get_partial_shape().to_string();
}

template <typename Port>
void check_port(const Port& port, const TensorSpec& spec, const char* role, const OpenVinoOptions& options) {
  const std::size_t batch = options.batched ? 1 : 0;
  const auto& shape = port.get_partial_shape();
  bool fits = port.get_element_type() == element_type(spec.data_type) && shape.rank().is_static() &&
              static_cast<std::size_t>(shape.rank().get_length()) == spec.dims.size() + batch;
  for (std::size_t i = 0; fits && i < spec.dims.size(); ++i) {
    fits = spec.dims[i] < 0 || shape[i + batch].compatible(spec.dims[i]);
  }
  if (fits) return;
  throw Error(Reason::kInvalidConfig, options.path + ": " + role + " \"" + spec.name + "\" is " + node_text(port) +
                                          " in the file, the configuration says " + to_string(spec, options.batched) +
                                          "; correct config.pbtxt or publish the right file");
}

template <typename Ports>
std::string port_names(const Ports& ports) {
  std::string out;
  for (const auto& port : ports) out += (out.empty() ? "" : ", ") + port.get_any_name();
  return out;
}

class OpenVinoEngine final : public Engine {
 public:
  OpenVinoEngine(Signature signature, const OpenVinoOptions& options)
      : signature_(std::move(signature)), slots_(options.slots), runners_(options.slots) {
    std::shared_ptr<ov::Model> model;
    try {
      model = runtime().read_model(options.path);
    } catch (const std::exception& e) {
      throw Error(Reason::kCorruptModel,
                  options.path + ": not a readable model: " + last_line(e.what()) + "; pull or publish it again");
    }
    check(*model, options);
    try {
      for (const auto rows : options.buckets) compile(model, rows, options);
    } catch (const std::exception& e) {
      throw Error(Reason::kCorruptModel, options.path + ": does not compile: " + last_line(e.what()));
    }
  }

  std::string kind() const override { return "openvino_cpu"; }
  const Signature& signature() const noexcept override { return signature_; }
  int slots() const noexcept override { return slots_; }
  std::map<std::string, std::string> properties() const override { return properties_; }

  std::uint8_t* input_place(int slot, std::int64_t bucket, std::size_t index) noexcept override {
    return runner_of(slot, bucket).bound[index];
  }

  void submit(Batch& batch, Done done) override {
    std::string error;
    try {
      run(batch);
    } catch (const std::exception& e) {
      error = last_line(e.what());
    }
    done(error);
  }

  void close() override {
    runners_.clear();
    compiled_.clear();
  }

 private:
  void check(const ov::Model& model, const OpenVinoOptions& options) const {
    const auto& path = options.path;
    const auto inputs = model.inputs();
    const auto outputs = model.outputs();
    if (inputs.size() != signature_.inputs.size()) {
      throw Error(Reason::kInvalidConfig, path + ": has inputs " + port_names(inputs) + ", the configuration names " +
                                              std::to_string(signature_.inputs.size()) + " of them");
    }
    const auto find = [&](const auto& ports, const TensorSpec& spec, const char* role) {
      for (const auto& port : ports) {
        if (port.get_names().count(spec.name) != 0) return check_port(port, spec, role, options);
      }
      throw Error(Reason::kInvalidConfig, path + ": no " + role + " \"" + spec.name + "\"; the file has " +
                                              port_names(ports) + "; correct config.pbtxt");
    };
    for (const auto& spec : signature_.inputs) find(inputs, spec, "input");
    for (const auto& spec : signature_.outputs) find(outputs, spec, "output");
  }

  void compile(const std::shared_ptr<ov::Model>& model, std::int64_t rows, const OpenVinoOptions& options) {
    std::map<std::string, ov::PartialShape> shapes;
    for (const auto& spec : signature_.inputs) {
      ov::PartialShape shape;
      if (options.batched) shape.push_back(rows);
      for (const auto d : spec.dims) shape.push_back(d < 0 ? ov::Dimension::dynamic() : ov::Dimension(d));
      shapes[spec.name] = shape;
    }
    auto fixed = model->clone();
    fixed->reshape(shapes);
    const auto precision = has_amx_bf16() ? ov::element::bf16 : ov::element::f32;
    auto compiled = runtime().compile_model(
        fixed, "CPU", ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::num_streams(slots_),
        ov::inference_num_threads(slots_ * options.threads), ov::hint::inference_precision(precision),
        ov::hint::enable_cpu_pinning(false), ov::hint::enable_hyper_threading(true));
    properties_["INFERENCE_PRECISION_HINT"] = precision.to_string();
    properties_["INFERENCE_NUM_THREADS"] = std::to_string(slots_ * options.threads);
    properties_["NUM_STREAMS"] = std::to_string(slots_);
    properties_["RUNTIME_VERSION"] = ov::get_openvino_version().buildNumber;
    for (auto& slot : runners_) slot.push_back(make_runner(compiled, rows));
    compiled_.push_back(std::move(compiled));
  }

  // An infer request of one slot and bucket with what never changes about it, looked up once.
  struct Runner {
    std::int64_t rows = 0;
    ov::InferRequest request;
    std::vector<ov::Output<const ov::Node>> inputs;  // signature order
    std::vector<ov::Output<const ov::Node>> outputs;
    std::vector<std::uint8_t*> bound;  // memory of inputs that are copied; null: bound anew for each run
    std::vector<std::size_t> bytes;    // of the inputs that are copied
    std::vector<BatchOutput> results;  // of outputs with a fixed shape; without data: asked for after each run
    std::vector<std::vector<std::uint8_t>> texts;  // outputs of kBytes, as they travel
  };

  template <typename Ports>
  static auto port_of(const Ports& ports, const std::string& name) {
    return *std::find_if(ports.begin(), ports.end(), [&](const auto& p) { return p.get_names().count(name) != 0; });
  }

  Runner make_runner(ov::CompiledModel& compiled, std::int64_t rows) const {
    Runner runner{rows, compiled.create_infer_request(), {}, {}, {}, {}, {}, {}};
    for (const auto& spec : signature_.inputs) {
      const auto port = port_of(compiled.inputs(), spec.name);
      runner.inputs.push_back(port);
      runner.bound.push_back(nullptr);
      runner.bytes.push_back(0);
      if (port.get_partial_shape().is_dynamic() || spec.data_type == DataType::kBytes) continue;
      auto tensor = runner.request.get_tensor(port);
      if (tensor.get_byte_size() > kBoundBytesMax) continue;
      runner.bound.back() = static_cast<std::uint8_t*>(tensor.data());
      runner.bytes.back() = tensor.get_byte_size();
    }
    for (const auto& spec : signature_.outputs) {
      runner.outputs.push_back(port_of(compiled.outputs(), spec.name));
      runner.texts.emplace_back();
      const bool fixed = runner.outputs.back().get_partial_shape().is_static() && spec.data_type != DataType::kBytes;
      runner.results.push_back(fixed ? result_of(runner.request.get_tensor(runner.outputs.back())) : BatchOutput{});
    }
    return runner;
  }

  static BatchOutput result_of(const ov::Tensor& tensor) {
    const auto& shape = tensor.get_shape();
    return {static_cast<const std::uint8_t*>(tensor.data()), {shape.begin(), shape.end()}, tensor.get_byte_size()};
  }

  // The runtime's strings are objects: BYTES are read into them and written out of them.
  static void read_texts(const BatchInput& input, ov::Tensor tensor) {
    tensor.set_shape({input.shape.begin(), input.shape.end()});
    std::span<const std::uint8_t> bytes(input.data, input.size);
    auto* texts = tensor.data<std::string>();
    for (std::size_t i = 0; i < tensor.get_size(); ++i) {
      const auto element = take_element(bytes);
      texts[i].assign(element.begin(), element.end());
    }
  }

  static BatchOutput write_texts(const ov::Tensor& tensor, std::vector<std::uint8_t>& bytes) {
    const auto& shape = tensor.get_shape();
    const std::span texts(tensor.data<const std::string>(), tensor.get_size());
    std::size_t size = texts.size() * width(DataType::kBytes);
    for (const auto& text : texts) size += text.size();
    bytes.resize(size);
    auto* out = bytes.data();
    for (const auto& text : texts) out = std::copy(text.begin(), text.end(), put_length(out, text.size()));
    return {bytes.data(), {shape.begin(), shape.end()}, size};
  }

  Runner& runner_of(int slot, std::int64_t rows) {
    auto& runners = runners_[static_cast<std::size_t>(slot)];
    return *std::find_if(runners.begin(), runners.end(), [&](const auto& r) { return r.rows == rows; });
  }

  void run(Batch& batch) {
    auto& runner = runner_of(batch.slot, batch.bucket);
    for (std::size_t i = 0; i < runner.inputs.size(); ++i) {
      const auto& input = batch.inputs[i];
      if (runner.bound[i] != nullptr) {
        if (input.data != runner.bound[i]) std::memcpy(runner.bound[i], input.data, runner.bytes[i]);
        continue;
      }
      if (signature_.inputs[i].data_type == DataType::kBytes) {
        read_texts(input, runner.request.get_tensor(runner.inputs[i]));
        continue;
      }
      const ov::Shape shape(input.shape.begin(), input.shape.end());
      // The runtime reads inputs only; its C++ tensor has no const form.
      auto* data = const_cast<std::uint8_t*>(input.data);  // NOLINT
      const auto type = element_type(signature_.inputs[i].data_type);
      runner.request.set_tensor(runner.inputs[i], ov::Tensor(type, shape, data));
    }
    runner.request.infer();
    batch.outputs.resize(runner.outputs.size());
    for (std::size_t i = 0; i < runner.outputs.size(); ++i) {
      const auto& fixed = runner.results[i];
      if (fixed.data != nullptr) {
        batch.outputs[i] = fixed;
        continue;
      }
      const auto tensor = runner.request.get_tensor(runner.outputs[i]);
      const bool is_text = signature_.outputs[i].data_type == DataType::kBytes;
      batch.outputs[i] = is_text ? write_texts(tensor, runner.texts[i]) : result_of(tensor);
    }
  }

  Signature signature_;
  int slots_;
  std::vector<ov::CompiledModel> compiled_;
  std::vector<std::vector<Runner>> runners_;  // by slot, one a bucket
  std::map<std::string, std::string> properties_;
};

}  // namespace

std::unique_ptr<Engine> make_openvino_engine(Signature signature, const OpenVinoOptions& options) {
  return std::make_unique<OpenVinoEngine>(std::move(signature), options);
}

}  // namespace starling
