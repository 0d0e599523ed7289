"""One running node: its models, its gRPC server, its metrics, and the order in which they start and stop."""

from __future__ import annotations

import logging
import threading
from contextlib import ExitStack
from types import TracebackType

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from engines import Repository
from engines._core import ModelRegistry
from services.host import Address, describe_error
from services.host.certificates import CertificateFollower
from services.predict._dataplane import Server, Tls
from services.predict.autopilot_log import AutopilotLog
from services.predict.control import ControlLoop
from services.predict.load import LoadMeter, describe_node
from services.predict.log_settings import LogSettings
from services.predict.methods import control_methods
from services.predict.metrics import NodeCollector
from services.predict.models import NodeModels
from services.predict.registration import Registration
from services.predict.settings import NodeSettings
from services.predict.shared_memory import SharedMemoryService

_WAIT_S = 1.0
_REGISTER_S = 2.0
_log = logging.getLogger(__name__)


class NodeStartError(Exception):
    """The node cannot serve what it was asked to serve."""

    status = "FAILED_PRECONDITION"
    reason = "NODE_NOT_STARTED"


class NodeProcess:
    """Takes its gRPC port at once, loads models in `serve`, drains on exit.

    Raises:
        InvalidConfig: the gRPC address is taken.
        CertificateRefused: the certificate files cannot be used.
        AutopilotLogTaken: the log of the autopilots cannot be written.
    """

    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        self._registry = ModelRegistry()
        self._models = NodeModels(
            Repository(settings.repository.absolute(), require_manifests=settings.require_manifests), self._registry
        )
        self._certificates = CertificateFollower(settings.certificates) if settings.certificates else None
        self._tls = Tls(**_pem(self._certificates), clients=list(settings.tls_client)) if self._certificates else None
        self._autopilot_log = (
            AutopilotLog(settings.autopilot_log, bytes_max=settings.autopilot_log_mib_max << 20)
            if settings.autopilot_log
            else None
        )
        memory = SharedMemoryService()
        methods = control_methods(self._models, LogSettings(logging.getLogger()), memory, grace_s=settings.grace_s)
        self._server = Server(
            self._registry,
            name=settings.name,
            address=str(settings.grpc),
            methods={name: method.streams for name, method in methods.items()},
            message_bytes_max=settings.message_mib_max << 20,
            streams_max=settings.streams_max,
            tls=self._tls,
            shared_memory_bytes_max=settings.shared_memory_mib_max << 20,
            triton_statuses=settings.triton_statuses,
            load_reports=settings.load_reports,
        )
        memory.attach(self._server)
        self._control = ControlLoop(self._server, methods)
        self._metrics = ExitStack()
        self._registration: Registration | None = None
        self.exit_code = 0

    def __enter__(self) -> NodeProcess:
        """Returns itself; nothing is loaded yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Answers what is admitted within the grace, then closes every port."""
        if self._registration is not None:
            self._registration.close()  # gateways look elsewhere before we begin to refuse
        if error is None:  # who could not start has nothing to drain
            _log.info("draining %r", self._server)
        cut_off = self._server.drain(self._settings.grace_s)
        self._control.close()
        if self._autopilot_log is not None:
            self._autopilot_log.write(self._registry.take_autopilot_records())
            self._autopilot_log.close()
        unanswered = self._registry.drain(grace_s=1.0)
        self._metrics.close()  # last, so that a drain can be watched
        if cut_off or unanswered:
            _log.error("%d calls were cut off by the end of the grace", cut_off + unanswered)
            self.exit_code = 1

    def serve(self, stop: threading.Event) -> None:
        """Loads and warms up the models, says that it is ready, and waits for `stop`.

        Raises:
            NodeStartError: the metrics address is taken, or a named model, or every model, failed to load.
        """
        settings = self._settings
        collectors = CollectorRegistry()
        collectors.register(NodeCollector(self._registry, self._server, self._certificates))
        ProcessCollector(registry=collectors)
        GCCollector(registry=collectors)
        try:
            metrics, _ = start_http_server(settings.metrics.port, addr=settings.metrics.host, registry=collectors)
        except OSError as error:
            raise NodeStartError(
                f"metrics address {settings.metrics} cannot be bound: {error.strerror}; "
                "choose another with --metrics, port 0 picks a free one"
            ) from error
        self._metrics.callback(metrics.server_close)
        self._metrics.callback(metrics.shutdown)
        self._load(stop)
        if stop.is_set():
            return
        self._server.set_serving(True)
        metrics_address = settings.metrics.with_port(metrics.server_port)
        if settings.control is not None:
            self._register(settings.control, metrics_address, stop)
        self._announce(metrics_address)
        while not stop.wait(_WAIT_S):
            if self._certificates is not None and self._tls is not None and self._certificates.refresh():
                self._tls.replace(**_pem(self._certificates))
            if self._autopilot_log is not None:
                self._autopilot_log.write(self._registry.take_autopilot_records())

    def _load(self, stop: threading.Event) -> None:
        errors = self._models.load_served(self._settings.model, stop.is_set)
        loaded = self._registry.models()
        if errors and (self._settings.model or not loaded):
            raise NodeStartError("; ".join(map(describe_error, errors)))
        if not loaded and not stop.is_set():
            raise NodeStartError(
                f"repository {self._settings.repository} has no model; fetch one with `starling models pull nanodet`"
            )

    def _register(self, control: Address, metrics: Address, stop: threading.Event) -> None:
        reached_at = self._settings.advertise or self._settings.grpc.with_port(self._server.port)
        node = describe_node(self._settings, str(reached_at), str(metrics))
        meter = LoadMeter(self._registry, self._server)
        self._registration = Registration(
            control,
            node,
            models=self._models,
            meter=meter,
            drain=stop.set,
            certificates=self._certificates,
        )
        if not self._registration.wait(_REGISTER_S):
            _log.warning("serving without the control plane %s, which does not answer yet", control)

    def _announce(self, metrics: Address) -> None:
        names = ",".join(f"{m['name']}:{m['version']}" for m in self._registry.models())
        grpc = self._settings.grpc.with_port(self._server.port)
        print(f"ready grpc={grpc} metrics={metrics} models={names}", flush=True)


def _pem(certificates: CertificateFollower) -> dict[str, bytes]:
    current = certificates.current
    return {"certificate": current.certificate, "key": current.key, "client_ca": current.client_ca}
