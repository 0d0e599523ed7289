// services.predict._dataplane: names, docs, the GIL; nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "link.h"
#include "server.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace starling;
using namespace starling::predict;

namespace {

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1e3));
}

std::string text(const nb::bytes& bytes) { return {bytes.c_str(), bytes.size()}; }
nb::bytes bytes(const std::string& text) { return nb::bytes(text.data(), text.size()); }

}  // namespace

NB_MODULE(_dataplane, m) {
  m.doc() = "The native gRPC server of a node. See services/predict/README.md.";
  nb::module_::import_("engines._core");  // brings ModelRegistry and the error translator

  nb::class_<ControlCall>(m, "ControlCall", "One message of a method that Python serves. Answer it once.")
      .def_ro("method", &ControlCall::method, "Full name, \"/package.Service/Method\".")
      .def_prop_ro(
          "message", [](const ControlCall& c) { return bytes(c.message); }, "Serialised request. Copies.")
      .def_ro("deadline_s", &ControlCall::deadline_s, "Seconds left when it arrived.")
      .def(
          "reply",
          [](ControlCall& c, const nb::bytes& response) {
            const auto copy = text(response);
            const nb::gil_scoped_release released;
            c.reply(copy);
          },
          "response"_a, "Sends a serialised response. Copies; releases the GIL.")
      .def(
          "fail",
          [](ControlCall& c, int code, const std::string& message, const nb::bytes& details) {
            const auto copy = text(details);
            const nb::gil_scoped_release released;
            c.fail(code, message, copy);
          },
          "code"_a, "message"_a, "details"_a = nb::bytes("", 0),
          "Ends the call with a canonical status code and serialised google.rpc.Status details.")
      .def("__repr__", [](const ControlCall& c) { return "<ControlCall " + c.method + ">"; });

  using transport::Tls;
  nb::class_<Tls>(m, "Tls", "TLS with client certificates, which may be replaced. Thread-safe.")
      .def(
          "__init__",
          [](Tls* self, const nb::bytes& certificate, const nb::bytes& key, const nb::bytes& client_ca,
             std::vector<std::string> clients) {
            new (self) Tls({text(certificate), text(key), text(client_ca)}, std::move(clients));
          },
          nb::kw_only(), "certificate"_a, "key"_a, "client_ca"_a, "clients"_a,
          "certificate, key, client_ca: PEM. clients: SPIFFE ids that may connect, those ending in '/' with all below; "
          "empty: all. Raises InvalidConfig when they cannot be used.")
      .def(
          "replace",
          [](Tls& t, const nb::bytes& certificate, const nb::bytes& key, const nb::bytes& client_ca) {
            t.replace({text(certificate), text(key), text(client_ca)});
          },
          nb::kw_only(), "certificate"_a, "key"_a, "client_ca"_a,
          "New connections get these; raises InvalidConfig and changes nothing when they cannot be used.")
      .def_prop_ro("refused", &Tls::refused, "Clients with a good certificate whose name is not allowed.")
      .def("__repr__", [](const Tls& t) { return "<Tls refused=" + std::to_string(t.refused()) + ">"; });

  nb::class_<Server>(m, "Server", "Serves PredictService natively and hands other methods to next_call(). Thread-safe.")
      .def(
          "__init__",
          [](Server* self, std::shared_ptr<ModelRegistry> models, std::string name, std::string address,
             std::map<std::string, bool> methods, int message_bytes_max, int streams_max,
             std::uint64_t shared_memory_bytes_max, bool triton_statuses, bool load_reports, std::shared_ptr<Tls> tls) {
            const nb::gil_scoped_release released;
            new (self) Server(std::move(models),
                              {std::move(name), std::move(address), std::move(methods), message_bytes_max, streams_max,
                               shared_memory_bytes_max, triton_statuses, load_reports, std::move(tls)});
          },
          "models"_a, nb::kw_only(), "name"_a, "address"_a, "methods"_a, "message_bytes_max"_a = 64 << 20,
          "streams_max"_a = 1024, "shared_memory_bytes_max"_a = std::uint64_t{1} << 30, "triton_statuses"_a = false,
          "load_reports"_a = false, "tls"_a = nb::none(),
          "methods: full name -> whether it streams. Raises InvalidConfig when the address can not be bound.")
      .def_prop_ro("port", &Server::port, "The bound port.")
      .def("set_serving", &Server::set_serving, "serving"_a, nb::call_guard<nb::gil_scoped_release>(),
           "Sets grpc.health.v1 for every service.")
      .def(
          "next_call", [](Server& s, double timeout_s) { return s.next_call(milliseconds(timeout_s)); }, "timeout_s"_a,
          nb::call_guard<nb::gil_scoped_release>(),
          "Returns the next ControlCall, or None after the timeout. Releases the GIL.",
          nb::sig("def next_call(self, timeout_s: float) -> ControlCall | None"))
      .def(
          "drain", [](Server& s, double grace_s) { return s.drain(Clock::now() + milliseconds(grace_s)); }, "grace_s"_a,
          nb::call_guard<nb::gil_scoped_release>(),
          "Refuses new requests, answers admitted ones, closes; returns the calls cut off. Releases the GIL.")
      .def(
          "register_region",
          [](Server& s, std::string region, std::string key, std::uint64_t offset, std::uint64_t byte_size) {
            const auto status = s.regions().add({std::move(region), std::move(key), offset, byte_size});
            if (!status.ok()) throw Error(status.reason, status.message);
          },
          "name"_a, "key"_a, "offset"_a, "byte_size"_a, nb::call_guard<nb::gil_scoped_release>(),
          "Opens a region of system shared memory for requests. Raises InvalidInput, AlreadyExists or QueueFull.")
      .def(
          "unregister_region", [](Server& s, const std::string& region) { s.regions().remove(region); }, "name"_a,
          "Forgets a region, or all for \"\". Requests that use it finish.")
      .def(
          "regions",
          [](Server& s) {
            nb::list out;
            for (const auto& region : s.regions().regions()) {
              out.append(nb::make_tuple(region.name, region.key, region.offset, region.size));
            }
            return out;
          },
          "Returns name, key, offset and byte_size of every region, by name.",
          nb::sig("def regions(self) -> list[tuple[str, str, int, int]]"))
      .def(
          "stats",
          [](const Server& s) {
            nb::dict out;
            out["calls_in_flight"] = s.node().calls();
            out["malformed"] = s.node().malformed.load();
            out["model_not_found"] = s.node().model_not_found.load();
            out["draining"] = s.node().draining();
            out["tls_refused"] = s.tls_refused();
            out["degraded"] = s.node().degraded.load();
            out["tensor_bytes_in"] = s.node().bytes_in.passed.load();
            out["tensor_bytes_in_copied"] = s.node().bytes_in.copied.load();
            out["tensor_bytes_out"] = s.node().bytes_out.passed.load();
            out["tensor_bytes_out_copied"] = s.node().bytes_out.copied.load();
            for (int i = 0; i < kFrameMatchCount; ++i) {
              const auto match = static_cast<FrameMatch>(i);
              out[nb::str(("frame_cache_" + std::string(name(match))).c_str())] = s.node().frames().count(match);
            }
            out["frame_cache_bytes"] = s.node().frames().stats().bytes;
            out["frame_cache_evictions"] = s.node().frames().stats().evictions;
            const auto responses = s.node().responses().stats();
            out["response_cache_hits"] = responses.hits;
            out["response_cache_misses"] = responses.misses;
            out["response_cache_bytes"] = responses.bytes;
            return out;
          },
          "Counters of the server.", nb::sig("def stats(self) -> dict[str, int]"))
      .def("__repr__", [](const Server& s) {
        return "<Server " + s.node().name() + " port=" + std::to_string(s.port()) +
               " calls=" + std::to_string(s.node().calls()) + ">";
      });

  nb::class_<LinkReply>(m, "LinkReply", "How a call to another server ended.")
      .def_ro("code", &LinkReply::code, "Canonical status code; 0 is OK.")
      .def_ro("message", &LinkReply::message, "What the server said about it.")
      .def_prop_ro(
          "payload", [](const LinkReply& r) { return bytes(r.payload); }, "Serialised response. Copies.")
      .def("__repr__",
           [](const LinkReply& r) { return "<LinkReply " + std::to_string(r.code) + " " + r.message + ">"; });

  nb::class_<LinkStream>(m, "LinkStream",
                         "A bidirectional stream. One thread may read while another writes. Releases the GIL.")
      .def(
          "write",
          [](LinkStream& s, const nb::bytes& message) {
            const auto copy = text(message);
            const nb::gil_scoped_release released;
            return s.write(copy);
          },
          "message"_a, "Sends a serialised message; False once the stream is broken. Copies.")
      .def(
          "read",
          [](LinkStream& s) -> std::optional<nb::bytes> {
            std::optional<std::string> message;
            {
              const nb::gil_scoped_release released;
              message = s.read();
            }
            if (!message) return std::nullopt;
            return bytes(*message);
          },
          "Waits for the next serialised message; None at the end of the stream. Copies.")
      .def("cancel", &LinkStream::cancel, nb::call_guard<nb::gil_scoped_release>(),
           "Ends the stream soon; a waiting read returns.")
      .def("finish", &LinkStream::finish, nb::call_guard<nb::gil_scoped_release>(),
           "Returns how it ended; call once, after read() returned None.")
      .def("__repr__", [](const LinkStream&) { return std::string("<LinkStream>"); });

  nb::class_<LinkTls>(m, "LinkTls", "How another server is known, and what we show it.")
      .def(
          "__init__",
          [](LinkTls* self, const nb::bytes& certificate, const nb::bytes& key, const nb::bytes& authorities,
             std::string server) {
            new (self) LinkTls{text(certificate), text(key), text(authorities), std::move(server)};
          },
          nb::kw_only(), "certificate"_a, "key"_a, "authorities"_a, "server"_a,
          "PEM. server: its SPIFFE id, with all below if it ends in '/'; empty: its host name.");

  nb::class_<Link>(m, "Link", "Calls another gRPC server by raw bytes. Repairs its connection. Thread-safe.")
      .def(
          "__init__",
          [](Link* self, const std::string& target, const LinkTls* tls) {
            new (self) Link(target, tls ? std::optional(*tls) : std::nullopt);
          },
          "target"_a, "tls"_a = nb::none(), nb::call_guard<nb::gil_scoped_release>(), "Plain text without tls.")
      .def(
          "call",
          [](Link& l, const std::string& method, const nb::bytes& request, double timeout_s) {
            const auto copy = text(request);
            const nb::gil_scoped_release released;
            return l.call(method, copy, milliseconds(timeout_s));
          },
          "method"_a, "request"_a, "timeout_s"_a, "Calls \"/package.Service/Method\" and waits. Releases the GIL.")
      .def("open", &Link::open, "method"_a, nb::call_guard<nb::gil_scoped_release>(),
           "Opens a bidirectional stream. Releases the GIL.")
      .def("__repr__", [](const Link&) { return std::string("<Link>"); });
}
