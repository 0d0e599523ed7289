"""Keeps a node known to the control plane: registers it, renews its lease with load reports, carries out orders."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from starling.mesh.v1 import node_service_pb2 as pb

from engines import EngineError
from services.host import Address, encode_error
from services.host.certificates import CertificateFollower, Certificates
from services.predict._dataplane import Link, LinkStream, LinkTls
from services.predict.load import LoadMeter, describe_models
from services.predict.models import NodeModels

_SERVICE = "/starling.mesh.v1.NodeService/"
_CALL_S = 2.0
_RETRY_S = 0.5
_ANNOUNCE_S = 6.0  # somewhat longer than the control plane waits for its gateways
_OK = 0
_log = logging.getLogger(__name__)


class Registration:
    """Registers a node and keeps it registered from a thread of its own until closed.

    The control plane may come later, go and come back: the node serves on and registers again.

    Args:
        control: the control plane.
        node: how the node describes itself, without its models.
        models: what it has loaded, and may be ordered to load or unload.
        meter: how busy it is.
        drain: asks the process to finish and end.
        certificates: what we show, and whom we believe; plain text without them.
    """

    def __init__(
        self,
        control: Address,
        node: Any,
        *,
        models: NodeModels,
        meter: LoadMeter,
        drain: Callable[[], None],
        certificates: CertificateFollower | None = None,
    ) -> None:
        self._control, self._node, self._drain = control, node, drain
        self._models, self._meter = models, meter
        self._request_id = secrets.token_hex(16)
        self._certificates = certificates
        self._shown = None if certificates is None else certificates.current
        self._link = Link(str(control), _link_tls(self._shown))
        self._stopping = threading.Event()
        self._registered = threading.Event()
        self._lease_id = ""
        self._period_s = _RETRY_S
        self._told: list[Any] = []  # the models as the control plane knows them
        self._woken = threading.Event()
        self._news = threading.Condition()
        self._changes = 0  # guarded by _news, as all below: loads and unloads so far
        self._known = 0  # of them, those that gateways know of
        self._asked: deque[int] = deque()  # the changes that each message without an answer has told
        self._reports = False
        self._results: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stream: LinkStream | None = None
        models.announce = self.announce
        self._thread = threading.Thread(target=self._run, name="registration", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> bool:
        """Waits until the node is registered; returns whether it is."""
        return self._registered.wait(timeout_s)

    def announce(self) -> None:
        """Tells the control plane that models came or went.

        Returns when its gateways know, so that whoever loaded a model may ask for it at once. Does not wait for a
        control plane that is away, and for none longer than `_ANNOUNCE_S`.
        """
        with self._news:
            self._changes += 1
            change = self._changes
            self._woken.set()
            self._news.wait_for(lambda: self._known >= change or not self._reports, _ANNOUNCE_S)

    def close(self) -> None:
        """Tells the control plane that the node leaves, so that nothing new is sent to it."""
        self._stopping.set()
        if self._lease_id:
            request = pb.DeregisterNodeRequest(lease_id=self._lease_id)
            self._link.call(_SERVICE + "DeregisterNode", request.SerializeToString(), _CALL_S)
        if self._stream is not None:
            self._stream.cancel()
        self._thread.join(_CALL_S)

    def _run(self) -> None:
        told = ""
        while not self._stopping.is_set():
            self._show_renewed()
            problem = self._register()
            if not problem:
                told = ""
                problem = self._report()
            if self._stopping.is_set():
                return
            if problem != told:
                _log.warning("control plane %s: %s; trying again", self._control, problem)
                told = problem
            self._stopping.wait(_RETRY_S)

    def _show_renewed(self) -> None:
        """Connects anew once certificates were replaced; what exists keeps what it began with."""
        if self._certificates is not None and self._certificates.current is not self._shown:
            self._shown = self._certificates.current
            self._link = Link(str(self._control), _link_tls(self._shown))

    def _register(self) -> str:
        """Takes a lease; returns what went wrong, or nothing."""
        node = pb.Node()
        node.CopyFrom(self._node)
        self._told = describe_models(self._models)
        node.models.extend(self._told)
        request = pb.RegisterNodeRequest(node=node, request_id=self._request_id)
        reply = self._link.call(_SERVICE + "RegisterNode", request.SerializeToString(), _CALL_S)
        if reply.code != _OK:
            return reply.message or f"status {reply.code}"
        response = pb.RegisterNodeResponse.FromString(reply.payload)
        self._lease_id = response.lease_id
        self._period_s = response.report_period.ToNanoseconds() / 1e9 or _RETRY_S
        if not self._registered.is_set():
            _log.info("registered with the control plane %s", self._control)
        self._registered.set()
        return ""

    def _report(self) -> str:
        """Reports until the stream breaks, at once after a load or unload; returns why it did."""
        self._stream = stream = self._link.open(_SERVICE + "ReportLoad")
        header = pb.ReportLoadRequest(header=pb.ReportLoadHeader(lease_id=self._lease_id))
        ended = threading.Event()
        reader = threading.Thread(target=self._read, args=(stream, ended), name="orders", daemon=True)
        self._set_reports(reports=True)
        reader.start()
        alive = stream.write(header.SerializeToString())
        while alive and not ended.is_set() and not self._stopping.is_set():
            self._woken.clear()
            with self._news:
                change = self._changes
            models = describe_models(self._models)
            if models != self._told:
                self._told = models
                alive = self._write(stream, change, models=pb.NodeModels(models=models))
            while alive and not self._results.empty():
                alive = self._write(stream, change, result=self._results.get())
            alive = alive and self._write(stream, change, report=self._meter.read())
            self._woken.wait(self._period_s)
        stream.cancel()
        reader.join()
        self._set_reports(reports=False)
        reply = stream.finish()
        return reply.message or f"the stream ended with status {reply.code}"

    def _set_reports(self, *, reports: bool) -> None:
        with self._news:
            self._reports = reports
            self._asked.clear()
            self._news.notify_all()

    def _write(self, stream: LinkStream, change: int, **message: Any) -> bool:
        with self._news:
            self._asked.append(change)
        return stream.write(pb.ReportLoadRequest(**message).SerializeToString())

    def _read(self, stream: LinkStream, ended: threading.Event) -> None:
        while (payload := stream.read()) is not None:
            response = pb.ReportLoadResponse.FromString(payload)
            match response.WhichOneof("message"):
                case "order":
                    # Loading takes seconds, and the stream has to go on meanwhile.
                    threading.Thread(target=self._obey, args=(response.order,), daemon=True).start()
                case "renewal":
                    with self._news:
                        if self._asked:
                            self._known = self._asked.popleft()
                        self._news.notify_all()
        ended.set()
        self._woken.set()

    def _obey(self, order: Any) -> None:
        result = pb.OrderResult(order_id=order.order_id)
        _log.info("ordered to %s", order.WhichOneof("action"))
        try:
            match order.WhichOneof("action"):
                case "load":
                    self._models.load(order.load.name, order.load.version)
                case "unload":
                    self._models.unload(order.unload.name, order.unload.version)
                case "drain":
                    self._drain()
        except EngineError as error:
            result.code, result.message, _ = encode_error(error)
            result.reason = str(getattr(error, "reason", ""))
        self._results.put(result)

    def __repr__(self) -> str:
        """Returns the control plane and whether it knows us."""
        return f"<Registration {self._control} {'registered' if self._registered.is_set() else 'unknown'}>"


def _link_tls(certificates: Certificates | None) -> LinkTls | None:
    """Returns how the control plane is known: by its role in our own trust domain, or else by its host name."""
    if certificates is None:
        return None
    trust_domain = certificates.uri.removeprefix("spiffe://").partition("/")[0]
    return LinkTls(
        certificate=certificates.certificate,
        key=certificates.key,
        authorities=certificates.client_ca,
        server=f"spiffe://{trust_domain}/control/" if trust_domain else "",
    )
