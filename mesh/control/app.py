"""Keeps the nodes of the mesh and tells every gateway where requests are answered soonest."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import grpc
from envoy.service.accesslog.v3 import als_pb2_grpc
from envoy.service.discovery.v3 import ads_pb2_grpc
from envoy.service.ratelimit.v3 import rls_pb2_grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.process_collector import ProcessCollector
from starling.mesh.v1 import (
    control_service_pb2,
    control_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
)

from mesh.control.access import Access
from mesh.control.access_log import AccessLog
from mesh.control.ads import AggregatedDiscovery
from mesh.control.controller import Controller
from mesh.control.guard import Guard
from mesh.control.load_reader import LoadReader
from mesh.control.metrics import ControlCollector
from mesh.control.node_service import NodeService
from mesh.control.probe import Probe
from mesh.control.rate_limits import RateLimits
from mesh.control.route_file import read_routes
from mesh.control.security_file import follow_security
from mesh.control.settings import ControlSettings
from mesh.control.status_service import ControlService
from mesh.control.tls import ServerTls
from mesh.gateway import check_listen, explain_bind
from mesh.gateway.security import read_security
from mesh.interrupt import watch_interrupts
from services.host import Address, read_settings

if TYPE_CHECKING:
    from mesh.control.kubernetes.discovery import KubernetesDiscovery

_STOP_GRACE_S = 0.5
_OPTIONS = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    # Nodes and gateways that vanished without a word are noticed, and may ask the same of us.
    ("grpc.keepalive_time_ms", 5000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
)
_EXAMPLES = (
    "starling control",
    "starling control --listen 0.0.0.0:18000 --routes routes.json --node edge-7=edge@10.0.0.7:8001",
    "starling control --kubernetes-service robots/nodes=edge",
)


def main(argv: Sequence[str]) -> int:
    """Runs the control plane until SIGTERM or Ctrl-C; returns 0."""
    settings = read_settings(
        ControlSettings,
        argv,
        os.environ,
        prog="starling control",
        description=f"{__doc__} Prints one line beginning "
        "with `ready` once nodes and gateways may connect. Agents are served on while it is down.",
        examples=_EXAMPLES,
    )
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s control %(levelname)s %(message)s")
    asyncio.run(serve(settings))
    return 0


async def serve(settings: ControlSettings) -> None:
    """Serves until a signal asks to stop; prints the ready line.

    Raises:
        PortTaken, AddressUnusable: an address cannot be listened on.
        NotInKubernetes: services are to be followed, and no API server is known.
        NoSecurityPlan: the security file holds something else.
        CertificateRefused, NoControlCertificate: the certificates are no control plane's, or cannot be used.
    """
    check_listen(settings.listen, "--listen")
    check_listen(settings.metrics, "--metrics")
    security = None if settings.security is None else read_security(settings.security)
    tls = None if settings.certs is None else ServerTls(settings.certs)
    access = None if tls is None else Access(tls.trust_domain)
    controller = Controller(settings.nodes_max, settings.balancer, equal=settings.equal_weights, security=security)
    for endpoint in settings.static_nodes:
        controller.registry.add_static(endpoint, time.monotonic(), time.time())
    controller.set_plans({} if settings.routes is None else read_routes(settings.routes))
    if access is not None:
        controller.alarm_sources.append(access.alarms)
    probe = Probe(controller.registry, controller.set_distance, settings.certs)
    access_log = AccessLog(controller.take, access, models_changed=probe.call_soon)
    server = grpc.aio.server(interceptors=[] if access is None else [Guard(access)], options=_OPTIONS)
    discovery = AggregatedDiscovery(controller.gateways, controller.is_new, access)
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(discovery, server)
    als_pb2_grpc.add_AccessLogServiceServicer_to_server(access_log, server)
    nodes = NodeService(controller.registry, access, controller.settle)
    node_service_pb2_grpc.add_NodeServiceServicer_to_server(cast("Any", nodes), server)
    control_service_pb2_grpc.add_ControlServiceServicer_to_server(
        cast("Any", ControlService(controller, routes=settings.routes)), server
    )
    limits = None if security is None else RateLimits(security, time.monotonic)
    if limits is not None:
        rls_pb2_grpc.add_RateLimitServiceServicer_to_server(limits, server)
    await _add_standard_services(server)
    port = _listen(server, settings.listen, tls)
    collectors = CollectorRegistry()
    collectors.register(ControlCollector(controller, access_log, limits, tls, access))
    kubernetes = _find_kubernetes(settings, controller, collectors) if settings.services else None
    ProcessCollector(registry=collectors)
    metrics, _ = start_http_server(settings.metrics.port, addr=settings.metrics.host, registry=collectors)
    try:
        async with watch_interrupts() as stop, asyncio.TaskGroup() as tasks:
            await server.start()
            reader = LoadReader(controller.registry, settings.certs)
            running = (one for one in (controller, probe, reader, kubernetes, tls) if one is not None)
            loops = [tasks.create_task(one.run()) for one in running]
            listens, shows = settings.listen.with_port(port), settings.metrics.with_port(metrics.server_port)
            if settings.security is not None and security is not None:
                takers = (controller.set_security, *([] if limits is None else [limits.set_plan]))
                loops.append(tasks.create_task(follow_security(settings.security, security, takers)))
            print(f"ready grpc={listens} metrics={shows}", flush=True)
            await stop.wait()
            for loop in loops:
                loop.cancel()
            await server.stop(_STOP_GRACE_S)
    finally:
        metrics.shutdown()
        metrics.server_close()


def _find_kubernetes(
    settings: ControlSettings, controller: Controller, collectors: CollectorRegistry
) -> KubernetesDiscovery:
    # Its HTTP client takes 0.2 s to import, which only those pay who need it.
    from mesh.control.kubernetes.api import KubernetesApi
    from mesh.control.kubernetes.discovery import KubernetesDiscovery, find_api, resolve_namespaces
    from mesh.control.kubernetes.metrics import KubernetesCollector

    account = settings.kubernetes_account
    api = KubernetesApi(find_api(settings.kubernetes_api, os.environ), account)
    services = resolve_namespaces(settings.services, account)
    found = KubernetesDiscovery(api, services, settings.kubernetes_port, controller.registry)
    controller.alarm_sources.append(found.alarms)
    collectors.register(KubernetesCollector(found))
    return found


def _listen(server: grpc.aio.Server, address: Address, tls: ServerTls | None) -> int:
    try:
        if tls is None:
            return server.add_insecure_port(str(address))
        return server.add_secure_port(str(address), tls.build_credentials())
    except RuntimeError as error:
        raise explain_bind(OSError(str(error)), address, "--listen") from error


async def _add_standard_services(server: grpc.aio.Server) -> None:
    status = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(status, server)
    await status.set("", health_pb2.HealthCheckResponse.SERVING)
    names = [
        node_service_pb2.DESCRIPTOR.services_by_name["NodeService"].full_name,
        control_service_pb2.DESCRIPTOR.services_by_name["ControlService"].full_name,
        health.SERVICE_NAME,
        reflection.SERVICE_NAME,
    ]
    reflection.enable_server_reflection(names, server)
