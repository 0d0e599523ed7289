// engines._core: names, docs, the GIL and error mapping; nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <condition_variable>
#include <cstring>

#include "admission_probe.h"
#include "autopilot_binding.h"
#include "bare_loop.h"
#include "luma.h"
#include "model_registry.h"
#include "openvino_graph.h"
#include "simulation.h"
#include "ssim.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace starling;

namespace {

TimePoint after(double seconds) {
  return Clock::now() + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

// Raises the class of engines.errors that stands for `reason`.
[[noreturn]] void raise(Reason reason, const std::string& message, std::int64_t retry_delay_us = 0) {
  static constexpr const char* kClasses[kReasonCount] = {
      "EngineError",    "InvalidInput",     "ModelNotFound", "ModelNotReady", "QueueFull",     "DeadlinePassed",
      "DeadlinePassed", "Draining",         "EngineFailed",  "CorruptModel",  "InvalidConfig", "DeadlineUnmeetable",
      "Superseded",     "SequenceNotFound", "SequencesFull", "AlreadyExists"};
  nb::object type = nb::module_::import_("engines.errors").attr(kClasses[static_cast<int>(reason)]);
  nb::object error =
      reason == Reason::kQueueFull || reason == Reason::kDeadlineUnmeetable || reason == Reason::kSequencesFull
          ? type(message, "retry_delay_ms"_a = static_cast<double>(retry_delay_us) / 1e3)
          : type(message);
  PyErr_SetObject(type.ptr(), error.ptr());
  throw nb::python_error();
}

DataType data_type(const std::string& text) {
  const auto type = data_type_from_name(text);
  if (!type) raise(Reason::kInvalidConfig, "data type \"" + text + "\" is unknown; use names such as UINT8 or FP32");
  return *type;
}

DataType data_type(const nb::dlpack::dtype& dtype) {
  using Code = nb::dlpack::dtype_code;
  const auto code = static_cast<Code>(dtype.code);
  const int bits = dtype.bits;
  if (code == Code::Bool) return DataType::kBool;
  const int log = bits == 8 ? 0 : bits == 16 ? 1 : bits == 32 ? 2 : bits == 64 ? 3 : -1;
  if (log >= 0 && code == Code::UInt) return static_cast<DataType>(static_cast<int>(DataType::kUint8) + log);
  if (log >= 0 && code == Code::Int) return static_cast<DataType>(static_cast<int>(DataType::kInt8) + log);
  if (code == Code::Float && bits == 16) return DataType::kFp16;
  if (code == Code::Float && bits == 32) return DataType::kFp32;
  if (code == Code::Float && bits == 64) return DataType::kFp64;
  if (code == Code::Bfloat && bits == 16) return DataType::kBf16;
  return DataType::kUnspecified;
}

nb::dlpack::dtype dlpack_type(DataType type) {
  using Code = nb::dlpack::dtype_code;
  const auto bits = static_cast<std::uint8_t>(width(type) * 8);
  Code code = Code::Float;
  if (type == DataType::kBool) code = Code::Bool;
  if (type >= DataType::kUint8 && type <= DataType::kUint64) code = Code::UInt;
  if (type >= DataType::kInt8 && type <= DataType::kInt64) code = Code::Int;
  if (type == DataType::kBf16) code = Code::Bfloat;
  return {static_cast<std::uint8_t>(code), bits, 1};
}

// A request that a Python thread waits for. The inputs are borrowed for the call.
class BlockingRequest final : public Request {
 public:
  void complete(Result&& result) noexcept override {
    const std::lock_guard lock(mutex_);
    result_ = std::move(result);
    done_ = true;
    ready_.notify_all();
  }

  // Bounded: the queue drops the request at its deadline and an engine run ends.
  Result wait() {
    std::unique_lock lock(mutex_);
    ready_.wait(lock, [this] { return done_; });
    return std::move(result_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable ready_;
  bool done_ = false;
  Result result_;
};

using InputArray = nb::ndarray<nb::c_contig, nb::device::cpu, nb::ro>;
using OutputArray = nb::ndarray<nb::numpy>;

OutputArray to_array(OutputTensor&& output) {
  std::vector<std::size_t> shape(output.shape.begin(), output.shape.end());
  auto* keep = new std::shared_ptr<const Buffer>(output.buffer);  // NOLINT: owned by the capsule
  nb::capsule owner(keep, [](void* p) noexcept { delete static_cast<std::shared_ptr<const Buffer>*>(p); });
  auto* data = const_cast<std::uint8_t*>(output.buffer->data() + output.offset);  // NOLINT
  return OutputArray(data, shape.size(), shape.data(), owner, nullptr, dlpack_type(output.spec->data_type));
}

std::map<std::string, OutputArray> infer(ModelRegistry& registry, const std::string& name, std::int64_t version,
                                         const std::map<std::string, InputArray>& inputs, double timeout_s) {
  auto model = registry.find(name, version);
  if (!model) raise(Reason::kModelNotFound, "model " + name + ":" + std::to_string(version) + " is not loaded");
  for (const auto& spec : model->config().signature.outputs) {
    if (spec.data_type != DataType::kBytes) continue;
    raise(Reason::kInvalidInput, name + " has output \"" + spec.name + "\" of BYTES; ask a node for it");
  }
  BlockingRequest request;
  for (const auto& [input_name, array] : inputs) {
    InputTensor tensor;
    tensor.name = input_name;
    tensor.data_type = data_type(array.dtype());
    for (std::size_t i = 0; i < array.ndim(); ++i) tensor.shape.push_back(static_cast<std::int64_t>(array.shape(i)));
    tensor.size_bytes = array.nbytes();
    tensor.data.emplace_back(static_cast<const std::uint8_t*>(array.data()), array.nbytes());
    request.size_bytes += tensor.size_bytes;
    request.inputs.push_back(std::move(tensor));
  }
  Result result;
  {
    const nb::gil_scoped_release released;
    request.arrival = Clock::now();
    request.deadline = after(timeout_s);
    model->submit(request);
    result = request.wait();
  }
  if (!result.status.ok()) raise(result.status.reason, result.status.message, result.status.retry_delay_us);
  std::map<std::string, OutputArray> outputs;
  for (auto& output : result.outputs) {
    const auto output_name = output.spec->name;
    outputs.emplace(output_name, to_array(std::move(output)));
  }
  return outputs;
}

nb::dict histogram(const Histogram& h) {
  nb::list buckets;
  std::uint64_t total = 0;
  for (int i = 0; i < Histogram::kBuckets; ++i) {
    total += h.bucket(i);
    if (i % Histogram::kSubBuckets == Histogram::kSubBuckets - 1) {
      buckets.append(nb::make_tuple(Histogram::upper_us(i), total));
    }
  }
  nb::dict out;
  out["buckets"] = buckets;
  out["count"] = total;
  out["sum_us"] = h.sum_us();
  return out;
}

// A moment of the steady clock as milliseconds since 1970; 0 stays 0.
std::int64_t wall_clock_ms(std::int64_t steady_us) {
  if (steady_us == 0) return 0;
  const auto ago_us = Clock::now().time_since_epoch() / std::chrono::microseconds(1) - steady_us;
  const auto now_us = std::chrono::system_clock::now().time_since_epoch() / std::chrono::microseconds(1);
  return (now_us - ago_us) / 1000;
}

nb::dict describe(const Model& model) {
  const auto& config = model.config();
  const auto& stats = model.stats();
  nb::dict finished;
  for (int i = 0; i < kReasonCount; ++i) {
    const auto n = stats.finished[i].load();
    if (n != 0 || i == 0) finished[nb::str(name(static_cast<Reason>(i)).data())] = n;
  }
  nb::list buckets;
  const auto run_times = model.run_times();
  for (std::size_t i = 0; i < run_times.size(); ++i) {
    const auto& bucket = *model.buckets()[i];
    nb::dict b;
    b["batch_size"] = bucket.rows;
    b["median_us"] = run_times[i].median_us;
    b["high_us"] = run_times[i].high_us;
    b["p50_us"] = bucket.run.quantile_us(0.5);
    b["p99_us"] = bucket.run.quantile_us(0.99);
    b["runs"] = bucket.run.count();
    b["served"] = bucket.served.load();
    b["served_us"] = bucket.served_us.load();
    buckets.append(b);
  }
  nb::list classes;
  for (const auto& of_class : stats.classes) {
    nb::dict c;
    c["met"] = of_class.met.load();
    c["missed"] = of_class.missed.load();
    c["slack"] = histogram(of_class.slack);
    c["lateness"] = histogram(of_class.lateness);
    classes.append(c);
  }
  nb::dict out;
  out["name"] = config.name;
  out["version"] = config.version;
  out["engine"] = model.engine().kind();
  out["engine_properties"] = model.engine().properties();
  out["queued"] = model.queued();
  out["margin_us"] = model.margin_us();
  out["is_quick"] = model.is_quick();
  out["finished"] = finished;
  out["rows"] = stats.rows.load();
  out["executions"] = stats.executions.load();
  out["expired_executed"] = stats.expired_executed.load();
  out["hung"] = stats.hung.load();
  out["failed_us"] = stats.failed_us.load();
  out["cache_hits"] = stats.cache_hits.load();
  out["cache_hit_us"] = stats.cache_hit_us.load();
  out["cache_hit_ns"] = stats.cache_hit_ns.load();
  out["cache_misses"] = stats.cache_misses.load();
  out["cache_miss_ns"] = stats.cache_miss_ns.load();
  out["last_inference_ms"] = wall_clock_ms(stats.last_answer_us.load());
  out["healthy"] = model.healthy();
  const auto sequences = model.sequences();
  out["sequences"] = sequences.open;
  out["sequences_started"] = sequences.started;
  out["sequences_expired"] = sequences.expired;
  out["sequences_displaced"] = sequences.displaced;
  out["autopilot"] = model.pilot() == nullptr ? nb::none() : nb::object(to_dict(*model.pilot(), model.setting()));
  out["buckets"] = buckets;
  out["classes"] = classes;
  out["early"] = histogram(stats.early);
  out["late"] = histogram(stats.late);
  out["batch_wait"] = histogram(stats.batch_wait);
  out["admission_p50_ns"] = stats.admission_ns.quantile_us(0.5);
  out["admission_p99_ns"] = stats.admission_ns.quantile_us(0.99);
  out["queue"] = histogram(stats.queue);
  out["compute"] = histogram(stats.compute);
  out["total"] = histogram(stats.total);
  return out;
}

nb::list take_autopilot_records(const ModelRegistry& registry) {
  nb::list out;
  for (const auto& model : registry.models()) {
    auto* pilot = model->pilot();
    if (pilot == nullptr) continue;
    for (const auto& record : pilot->take_records()) {
      auto entry = to_dict(record);
      entry["model"] = model->config().name;
      entry["version"] = model->config().version;
      entry["load"] = model->id();
      entry["mode"] = std::string(name(pilot->mode()));
      entry["policy"] = to_dict(pilot->policy());
      out.append(entry);
    }
  }
  return out;
}

Discipline discipline(const std::string& text) {
  if (text == "deadline") return Discipline::kDeadline;
  if (text == "fifo") return Discipline::kFifo;
  raise(Reason::kInvalidConfig, "discipline \"" + text + "\" is unknown; use \"deadline\" or \"fifo\"");
}

Postprocess postprocess(const std::string& text) {
  if (text.empty()) return Postprocess::kNone;
  if (text == "nms") return Postprocess::kDetections;
  raise(Reason::kInvalidConfig, "postprocess \"" + text + "\" is unknown; use \"nms\" or leave it out");
}

using Plane = nb::ndarray<const std::uint8_t, nb::shape<-1, -1>, nb::c_contig, nb::device::cpu>;
using BgrFrame = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using OwnedPlane = nb::ndarray<nb::numpy, std::uint8_t, nb::ndim<2>>;

LumaView view(const Plane& plane) {
  return {plane.data(), static_cast<std::int64_t>(plane.shape(0)), static_cast<std::int64_t>(plane.shape(1))};
}

std::optional<OwnedPlane> luma_of(const BgrFrame& frame) {
  const Spans bytes{{frame.data(), frame.size()}};
  auto luma = small_luma(bytes, static_cast<std::int64_t>(frame.shape(0)), static_cast<std::int64_t>(frame.shape(1)));
  if (!luma) return std::nullopt;
  auto* keep = new Luma(std::move(*luma));  // NOLINT: owned by the capsule
  const nb::capsule owner(keep, [](void* p) noexcept { delete static_cast<Luma*>(p); });
  return OwnedPlane(keep->pixels.data(),
                    {static_cast<std::size_t>(keep->height), static_cast<std::size_t>(keep->width)}, owner);
}

using Arrivals = nb::ndarray<const std::int64_t, nb::shape<-1, 7>, nb::c_contig, nb::device::cpu>;
using Outcomes = nb::ndarray<nb::numpy, std::int64_t, nb::shape<-1, 5>>;

// A century, and an hour: far from where a clock that counts nanoseconds ends.
constexpr std::int64_t kSimulatedUsMax = std::int64_t{1} << 52;
constexpr std::int64_t kSimulatedRunUsMax = 3'600'000'000;

void check_number(const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
  if (value >= low && value <= high) return;
  raise(Reason::kInvalidInput, std::string(name) + " is " + std::to_string(value) + ", wanted " + std::to_string(low) +
                                   " to " + std::to_string(high));
}

std::vector<SimulatedRequest> read_arrivals(const Arrivals& arrivals) {
  std::vector<SimulatedRequest> requests;
  requests.reserve(arrivals.shape(0));
  const auto* row = arrivals.data();
  for (std::size_t i = 0; i < arrivals.shape(0); ++i, row += 7) {
    check_number("arrival_us", row[0], 0, kSimulatedUsMax);
    check_number("deadline_us", row[1], -kSimulatedUsMax, kSimulatedUsMax);
    requests.push_back({row[0], row[1], static_cast<std::int32_t>(row[2]), static_cast<std::int32_t>(row[3]),
                        static_cast<std::int32_t>(row[4]), row[5], row[6]});
  }
  return requests;
}

SimulationOptions read_machine(const std::vector<std::int64_t>& bucket_rows,
                               const std::vector<std::int64_t>& bucket_run_us, int slots, const std::string& order,
                               std::int64_t batch_delay_us, std::size_t queue_max, double noise, std::uint64_t seed) {
  if (bucket_rows.empty() || bucket_rows.size() != bucket_run_us.size()) {
    raise(Reason::kInvalidInput, "bucket_rows and bucket_run_us must have the same length, at least 1");
  }
  std::int64_t smaller = 0;
  for (const auto rows : bucket_rows) {
    check_number("bucket_rows, which must ascend,", rows, smaller + 1, 1 << 20);
    smaller = rows;
  }
  for (const auto run_us : bucket_run_us) check_number("bucket_run_us", run_us, 0, kSimulatedRunUsMax);
  check_number("slots", slots, 1, 1024);
  check_number("batch_delay_us", batch_delay_us, 0, kSimulatedRunUsMax);
  if (!(noise >= 0 && noise <= 100))
    raise(Reason::kInvalidInput, "noise is " + std::to_string(noise) + ", wanted 0 to 100");
  SimulationOptions options;
  options.scheduler.discipline = discipline(order);
  options.scheduler.slots = slots;
  options.scheduler.batch_delay_us = batch_delay_us;
  options.scheduler.bounds.requests_max = queue_max;
  options.bucket_rows = bucket_rows;
  options.bucket_run_us = bucket_run_us;
  options.noise = noise;
  options.seed = seed;
  return options;
}

SimulationReport run_simulation(const Arrivals& arrivals, const SimulationOptions& options) {
  const auto requests = read_arrivals(arrivals);
  const nb::gil_scoped_release released;
  return simulate(requests, options);
}

Outcomes to_rows(const std::vector<SimulatedOutcome>& outcomes) {
  using Rows = std::vector<std::array<std::int64_t, 5>>;
  auto rows = std::make_unique<Rows>();
  rows->reserve(outcomes.size());
  for (const auto& outcome : outcomes) {
    rows->push_back({static_cast<std::int64_t>(outcome.reason), outcome.start_us, outcome.end_us, outcome.predicted_us,
                     outcome.batch_rows});
  }
  const nb::capsule owner(rows.get(), [](void* p) noexcept { std::unique_ptr<Rows>(static_cast<Rows*>(p)); });
  auto& owned = *rows.release();
  return Outcomes(owned.data(), {owned.size(), 5}, owner);
}

Outcomes simulate_rows(const Arrivals& arrivals, const std::vector<std::int64_t>& bucket_rows,
                       const std::vector<std::int64_t>& bucket_run_us, int slots, const std::string& order,
                       std::int64_t batch_delay_us, std::size_t queue_max, double noise, std::uint64_t seed) {
  const auto options = read_machine(bucket_rows, bucket_run_us, slots, order, batch_delay_us, queue_max, noise, seed);
  return to_rows(run_simulation(arrivals, options).outcomes);
}

nb::tuple simulate_autopilot(const Arrivals& arrivals, const std::vector<std::int64_t>& bucket_rows,
                             const std::vector<std::int64_t>& bucket_run_us, std::int64_t slo_p99_us,
                             double slo_miss_rate, const std::string& mode, int slots, int cores,
                             const std::vector<std::pair<std::int64_t, double>>& slowdowns, std::int64_t batch_delay_us,
                             std::size_t queue_max, double noise, std::uint64_t seed) {
  auto options = read_machine(bucket_rows, bucket_run_us, slots, "deadline", batch_delay_us, queue_max, noise, seed);
  check_number("slo_p99_us", slo_p99_us, 1, kSimulatedRunUsMax);
  for (const auto& [at_us, factor] : slowdowns) options.slowdowns.push_back({at_us, factor});
  options.cores = cores;
  options.autopilot = autopilot_mode(mode);
  options.slo_p99_us = slo_p99_us;
  options.slo_miss_rate = slo_miss_rate;
  const auto report = run_simulation(arrivals, options);
  nb::list records;
  for (const auto& record : report.records) records.append(to_dict(record));
  return nb::make_tuple(to_rows(report.outcomes), to_dict(report.policy), records);
}

}  // namespace

NB_MODULE(_core, m) {
  m.doc() = "Native engines: models, queues and batches. See engines/README.md.";

  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const Error& e) {
      try {
        raise(e.reason(), e.what());
      } catch (nb::python_error& raised) {
        raised.restore();
      }
    }
  });

  m.def("simulate", &simulate_rows, "arrivals"_a, nb::kw_only(), "bucket_rows"_a, "bucket_run_us"_a, "slots"_a = 1,
        "discipline"_a = "deadline", "batch_delay_us"_a = 0, "queue_max"_a = 256, "noise"_a = 0.0, "seed"_a = 0,
        nb::sig("def simulate(arrivals: numpy.typing.NDArray[numpy.int64], *, "
                "bucket_rows: collections.abc.Sequence[int], bucket_run_us: collections.abc.Sequence[int], "
                "slots: int = 1, discipline: str = 'deadline', batch_delay_us: int = 0, queue_max: int = 256, "
                "noise: float = 0.0, seed: int = 0) -> numpy.typing.NDArray[numpy.int64]"),
        "Runs the real scheduler in virtual time against an engine that only takes time.\n\n"
        "arrivals: int64[n, 7], by arrival: arrival_us, deadline_us, priority, tenant, stream or -1, sequence, rows.\n"
        "Returns int64[n, 5]: reason (0 is answered, see reasons()), start_us, end_us, predicted_us, batch_rows.");
  m.def("simulate_autopilot", &simulate_autopilot, "arrivals"_a, nb::kw_only(), "bucket_rows"_a, "bucket_run_us"_a,
        "slo_p99_us"_a, "slo_miss_rate"_a = 0.01, "mode"_a = "act", "slots"_a = 1, "cores"_a = 0,
        "slowdowns"_a = std::vector<std::pair<std::int64_t, double>>{}, "batch_delay_us"_a = 0, "queue_max"_a = 256,
        "noise"_a = 0.0, "seed"_a = 0,
        nb::sig("def simulate_autopilot(arrivals: numpy.typing.NDArray[numpy.int64], *, "
                "bucket_rows: collections.abc.Sequence[int], bucket_run_us: collections.abc.Sequence[int], "
                "slo_p99_us: int, slo_miss_rate: float = 0.01, mode: str = 'act', slots: int = 1, cores: int = 0, "
                "slowdowns: collections.abc.Sequence[tuple[int, float]] = (), batch_delay_us: int = 0, "
                "queue_max: int = 256, noise: float = 0.0, seed: int = 0) -> "
                "tuple[numpy.typing.NDArray[numpy.int64], dict[str, typing.Any], list[dict[str, typing.Any]]]"),
        "As `simulate`, with the autopilot at work. Returns the rows, its policy and its records.\n\n"
        "cores: runs side by side beyond these slow each other down; 0 is as many as slots.\n"
        "slowdowns: from a time on, runs take a factor as long.");
  bind_autopilot(m);
  m.def(
      "admission_ns",
      [](int queued, int tenants, bool cold, int runs) {
        if (queued < 0 || tenants < 1 || runs < 1) {
          raise(Reason::kInvalidInput, "queued must be at least 0, tenants and runs at least 1");
        }
        const nb::gil_scoped_release released;
        return admission_ns({queued, tenants, cold}, runs);
      },
      nb::kw_only(), "queued"_a, "tenants"_a = 1, "cold"_a = false, "runs"_a = 1000,
      "Nanoseconds of each of `runs` decisions about a request, every second one a refusal.\n\n"
      "queued: requests that wait already, shared by `tenants`. cold: caches are used for something else in between,\n"
      "as a convnet does. Releases the GIL. Raises InvalidInput.");
  m.def(
      "ssim",
      [](const Plane& a, const Plane& b) {
        const nb::gil_scoped_release released;
        return ssim(view(a), view(b));
      },
      "a"_a, "b"_a,
      nb::sig("def ssim(a: numpy.typing.NDArray[numpy.uint8], b: numpy.typing.NDArray[numpy.uint8]) -> float"),
      "Returns the mean structural similarity of two uint8[H, W] planes of one shape; 1.0 when identical.\n"
      "Borrows; releases the GIL. Raises InvalidInput when shapes differ or an edge is under 7.");
  m.def("small_luma", &luma_of, "frame"_a,
        nb::sig("def small_luma(frame: numpy.typing.NDArray[numpy.uint8]) -> numpy.typing.NDArray[numpy.uint8] | None"),
        "Returns the brightness of a uint8[H, W, 3] BGR frame with edges of at most 104; None when it cannot be\n"
        "compared. Borrows the frame, returns an owned array.");
  m.def(
      "read_graph",
      [](const std::string& path) {
        Signature signature;
        {
          const nb::gil_scoped_release released;
          signature = read_graph(path);
        }
        return nb::make_tuple(std::move(signature.inputs), std::move(signature.outputs));
      },
      "path"_a, nb::sig("def read_graph(path: str) -> tuple[list[TensorSpec], list[TensorSpec]]"),
      "Returns the inputs and outputs of an ONNX or OpenVINO file, `dims` with the batch. Raises CorruptModel.");
  m.def("bare_rows_per_s", &bare_rows_per_s, "path"_a, nb::kw_only(), "rows"_a, "seconds"_a,
        nb::call_guard<nb::gil_scoped_release>(),
        "Returns rows per second of the OpenVINO engine in a loop with nothing around it, in batches of `rows` on one\n"
        "thread. Releases the GIL. Raises CorruptModel, InvalidConfig or EngineFailed.");
  m.def(
      "reasons",
      [] {
        std::vector<std::string> names;
        for (int i = 0; i < kReasonCount; ++i) names.emplace_back(name(static_cast<Reason>(i)));
        return names;
      },
      "Reasons by number, as `simulate` returns them.");

  nb::class_<TensorSpec>(m, "TensorSpec",
                         "A name, an element type and the dimensions behind the batch; -1 is any size.")
      .def(
          "__init__",
          [](TensorSpec* self, std::string name, const std::string& type, Shape dims) {
            new (self) TensorSpec{std::move(name), data_type(type), std::move(dims)};
          },
          "name"_a, "data_type"_a, "dims"_a, "data_type is a name such as \"UINT8\" or \"FP32\".")
      .def_ro("name", &TensorSpec::name)
      .def_prop_ro("data_type", [](const TensorSpec& s) { return std::string(name(s.data_type)); })
      .def_ro("dims", &TensorSpec::dims)
      .def("__repr__", [](const TensorSpec& s) { return "<TensorSpec " + s.name + " " + to_string(s) + ">"; });

  nb::class_<StateSpec>(m, "StateSpec", "A tensor that a step of a sequence leaves for the next one.")
      .def(nb::init<TensorSpec, std::string>(), "input"_a, "output_name"_a,
           "The graph's output of that name becomes its input; every dimension is fixed.")
      .def("__repr__", [](const StateSpec& s) {
        return "<StateSpec " + s.input.name + " from " + s.output_name + " " + to_string(s.input) + ">";
      });

  nb::class_<ModelConfig>(m, "ModelConfig", "Everything needed to load one model version.")
      .def(
          "__init__",
          [](ModelConfig* self, std::string name, std::int64_t version, std::string backend, std::string path,
             std::vector<TensorSpec> inputs, std::vector<TensorSpec> outputs, std::vector<std::int64_t> buckets,
             int instances, int threads, std::size_t queue_max, std::uint64_t queue_bytes_max,
             std::int64_t batch_delay_us, std::int64_t default_timeout_us, const std::string& post,
             float score_threshold, float iou_threshold, std::int64_t identity_delay_us,
             std::int64_t identity_fail_every, const std::string& order, std::int64_t watchdog_us,
             std::int64_t response_cache_us, std::vector<StateSpec> states, std::int64_t sequence_idle_us,
             std::size_t sequences_max, bool batched, std::map<std::string, std::vector<std::string>> labels,
             std::int32_t default_priority, const std::string& autopilot, std::int64_t slo_p99_us,
             double slo_miss_rate) {
            const auto which = discipline(order);
            const auto mode = autopilot_mode(autopilot);
            const auto step = postprocess(post);
            new (self) ModelConfig{std::move(name),
                                   version,
                                   std::move(backend),
                                   std::move(path),
                                   {std::move(inputs), std::move(outputs)},
                                   std::move(buckets),
                                   instances,
                                   threads,
                                   {queue_max, queue_bytes_max},
                                   which,
                                   batch_delay_us,
                                   watchdog_us,
                                   default_timeout_us,
                                   response_cache_us,
                                   step,
                                   {score_threshold, iou_threshold},
                                   identity_delay_us,
                                   identity_fail_every,
                                   batched,
                                   {std::move(states), sequence_idle_us, sequences_max},
                                   std::move(labels),
                                   default_priority,
                                   mode,
                                   slo_p99_us,
                                   slo_miss_rate};
          },
          nb::kw_only(), "name"_a, "version"_a, "backend"_a, "path"_a = "", "inputs"_a, "outputs"_a,
          "buckets"_a = std::vector<std::int64_t>{1}, "instances"_a = 1, "threads"_a = 1, "queue_max"_a = 256,
          "queue_bytes_max"_a = std::uint64_t{256} << 20, "batch_delay_us"_a = 0, "default_timeout_us"_a = 1'000'000,
          "postprocess"_a = "", "score_threshold"_a = 0.35F, "iou_threshold"_a = 0.5F, "identity_delay_us"_a = 0,
          "identity_fail_every"_a = 0, "discipline"_a = "deadline", "watchdog_us"_a = 5'000'000,
          "response_cache_us"_a = 0, "states"_a = std::vector<StateSpec>{}, "sequence_idle_us"_a = 1'000'000,
          "sequences_max"_a = 1024, "batched"_a = true, "labels"_a = std::map<std::string, std::vector<std::string>>{},
          "default_priority"_a = 0, "autopilot"_a = "off", "slo_p99_us"_a = 0, "slo_miss_rate"_a = 0.01,
          "batched: false when tensors have no batch dimension; dims are then whole shapes. "
          "labels: of the classes of an output, by its name. "
          "buckets: batch sizes to compile, ascending. Times in microseconds. postprocess: \"\" or \"nms\". "
          "autopilot: \"off\", \"advise\" or \"act\"; without slo_p99_us there is none.")
      .def_ro("name", &ModelConfig::name)
      .def_ro("version", &ModelConfig::version)
      .def("__repr__", [](const ModelConfig& c) {
        return "<ModelConfig " + c.name + ":" + std::to_string(c.version) + " " + c.backend + ">";
      });

  nb::class_<ModelRegistry>(m, "ModelRegistry", "The loaded model versions of this process. Thread-safe.")
      .def(nb::init<>())
      .def("load", &ModelRegistry::load, "config"_a, nb::call_guard<nb::gil_scoped_release>(),
           "Compiles, warms up and publishes a version; replaces a loaded one. Releases the GIL.\n\n"
           "Raises InvalidConfig, CorruptModel, EngineFailed or Draining of engines.errors.")
      .def(
          "unload",
          [](ModelRegistry& r, const std::string& name, std::int64_t version, double grace_s) {
            return r.unload(name, version, after(grace_s));
          },
          "name"_a, "version"_a, "grace_s"_a = 5.0, nb::call_guard<nb::gil_scoped_release>(),
          "Drains and frees a version; False when it was not loaded. Releases the GIL.")
      .def(
          "drain", [](ModelRegistry& r, double grace_s) { return r.drain(after(grace_s)); }, "grace_s"_a = 5.0,
          nb::call_guard<nb::gil_scoped_release>(),
          "Drains everything for good; returns admitted requests that got no answer. Releases the GIL.")
      .def("set_available", &ModelRegistry::set_available, "names"_a,
           "Names this process could load, so that a refusal can tell \"not loaded\" from \"unknown\".")
      .def(
          "models",
          [](const ModelRegistry& r) {
            nb::list out;
            for (const auto& model : r.models()) out.append(describe(*model));
            return out;
          },
          "One dict per loaded version: name, version, engine, queued, finished (by reason), buckets, histograms.",
          nb::sig("def models(self) -> list[dict[str, typing.Any]]"))
      .def("take_autopilot_records", &take_autopilot_records,
           "The autopilots' steps since the last call, oldest first, as `autopilot_decide` takes them. A model keeps "
           "the\n"
           "last 256, almost a minute; a gap in `number` shows that more went by.",
           nb::sig("def take_autopilot_records(self) -> list[dict[str, typing.Any]]"))
      .def("infer", &infer, "name"_a, "version"_a, "inputs"_a, "timeout_s"_a = 1.0,
           nb::sig("def infer(self, name: str, version: int, inputs: collections.abc.Mapping[str, "
                   "numpy.typing.NDArray[typing.Any]], timeout_s: float = 1.0) -> "
                   "dict[str, numpy.typing.NDArray[typing.Any]]"),
           "Runs one request through the model's queue and waits. Borrows the inputs, returns owned arrays.\n"
           "version 0 is the highest. Releases the GIL. Raises the errors of engines.errors.");
}
