#include "openvino_engine.h"

#include <cpuid.h>

#include <algorithm>
#include <array>
#include <openvino/openvino.hpp>

#include "openvino_graph.h"

namespace starling {
namespace {

constexpr std::array<ov::element::Type_t, kDataTypeCount> kElementTypes{
    ov::element::dynamic, ov::element::boolean, ov::element::u8,  ov::element::u16, ov::element::u32,
    ov::element::u64,     ov::element::i8,      ov::element::i16, ov::element::i32, ov::element::i64,
    ov::element::f16,     ov::element::bf16,    ov::element::f32, ov::element::f64};

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
      : signature_(std::move(signature)), slots_(options.slots), requests_(options.slots) {
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
    requests_.clear();
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
    for (auto& slot : requests_) slot.emplace_back(rows, compiled.create_infer_request());
    compiled_.push_back(std::move(compiled));
  }

  void run(Batch& batch) {
    auto& slot = requests_[batch.slot];
    const auto it = std::find_if(slot.begin(), slot.end(), [&](const auto& r) { return r.first == batch.bucket; });
    auto& request = it->second;
    for (std::size_t i = 0; i < signature_.inputs.size(); ++i) {
      const auto& spec = signature_.inputs[i];
      const ov::Shape shape(batch.inputs[i].shape.begin(), batch.inputs[i].shape.end());
      // The runtime reads inputs only; its C++ tensor has no const form.
      auto* data = const_cast<std::uint8_t*>(batch.inputs[i].data);  // NOLINT
      request.set_tensor(spec.name, ov::Tensor(element_type(spec.data_type), shape, data));
    }
    request.infer();
    batch.outputs.resize(signature_.outputs.size());
    for (std::size_t i = 0; i < signature_.outputs.size(); ++i) {
      const auto tensor = request.get_tensor(signature_.outputs[i].name);
      const auto& shape = tensor.get_shape();
      batch.outputs[i].data = static_cast<const std::uint8_t*>(tensor.data());
      batch.outputs[i].shape.assign(shape.begin(), shape.end());
    }
  }

  Signature signature_;
  int slots_;
  std::vector<ov::CompiledModel> compiled_;
  std::vector<std::vector<std::pair<std::int64_t, ov::InferRequest>>> requests_;  // by slot
  std::map<std::string, std::string> properties_;
};

}  // namespace

std::unique_ptr<Engine> make_openvino_engine(Signature signature, const OpenVinoOptions& options) {
  return std::make_unique<OpenVinoEngine>(std::move(signature), options);
}

}  // namespace starling
