"""Who may call the control plane, and as whom: decided from the SPIFFE id that a certificate proves."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator

from mesh.certs.errors import NameRefused
from mesh.certs.identity import Identity, Role
from mesh.control.errors import NotAllowed

_DISCOVERY = "/envoy.service.discovery.v3.AggregatedDiscoveryService/"
_ACCESS_LOG = "/envoy.service.accesslog.v3.AccessLogService/"
_RATE_LIMITS = "/envoy.service.ratelimit.v3.RateLimitService/"
_NODES = "/starling.mesh.v1.NodeService/"
_HEALTH = "/grpc.health.v1.Health/"

# By prefix. What is not listed needs an admin: a new method is closed until somebody opens it.
_ROLES = {
    _DISCOVERY: frozenset({Role.GATEWAY}),
    _ACCESS_LOG: frozenset({Role.GATEWAY}),
    _RATE_LIMITS: frozenset({Role.GATEWAY}),
    f"{_NODES}RegisterNode": frozenset({Role.NODE}),
    f"{_NODES}ReportLoad": frozenset({Role.NODE}),
    f"{_NODES}DeregisterNode": frozenset({Role.NODE}),
    _HEALTH: frozenset(Role),
}
_ADMINS = frozenset({Role.ADMIN})

# What refusals are counted by; a caller chooses the rest.
_SERVICES = frozenset({*(prefix.split("/")[1] for prefix in _ROLES), "starling.mesh.v1.ControlService"})

ALARM_S = 300.0
"""A refusal is an alarm for so long: it is either a mistake in the certificates or somebody trying."""

_LOG_EVERY_S = 1.0  # a node that tries again and again, or an attacker, does not fill the disk
_log = logging.getLogger(__name__)


class Access:
    """Judges callers, counts refusals and remembers the last one. Used from one event loop.

    Attributes:
        refused: number of refusals by the service that was called, or `other`.

    Args:
        trust_domain: first part of every SPIFFE id that counts.
        clock: seconds, monotonic.
    """

    def __init__(self, trust_domain: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._prefix, self._clock = f"spiffe://{trust_domain}/", clock
        self.refused: Counter[str] = Counter()
        self._last: tuple[float, str] | None = None
        self._logged_s, self._unlogged = -_LOG_EVERY_S, 0

    def check_method(self, spiffe_id: str, method: str) -> None:
        """Lets the holder of a certificate call a method, `/package.Service/Method`, or not.

        Raises:
            NotAllowed: its kind may not.
        """
        roles = next((roles for prefix, roles in _ROLES.items() if method.startswith(prefix)), _ADMINS)
        caller = self._read(spiffe_id)
        if caller is None or caller.role not in roles:
            expected = " or ".join(f"{self._prefix}{role}/NAME" for role in sorted(roles))
            self._refuse(spiffe_id, method, f"call {method}", f"expected a certificate of {expected}")

    def check_node(self, spiffe_id: str, node: str) -> None:
        """Lets the holder of a certificate speak for a node, or not.

        Raises:
            NotAllowed: it is another one.
        """
        caller = self._read(spiffe_id)
        if caller is None or caller.role is not Role.NODE or caller.name != node:
            expected = f"a node speaks for itself only, with a certificate of {self._prefix}node/{node}"
            self._refuse(spiffe_id, _NODES, f"speak for node {node!r}", expected)

    def check_gateway(self, spiffe_id: str, gateway: str) -> None:
        """Lets the holder of a certificate speak for a gateway, or not.

        The replicas of a gateway share its certificate: `NAME/REPLICA` is as good as `NAME`.

        Raises:
            NotAllowed: it is another one.
        """
        caller = self._read(spiffe_id)
        if caller is None or caller.role is not Role.GATEWAY or caller.name != gateway.partition("/")[0]:
            expected = "a gateway's node id is the name in its certificate, or that name, `/` and more"
            self._refuse(spiffe_id, _DISCOVERY, f"speak for gateway {gateway!r}", expected)

    def alarms(self, now_s: float) -> Iterator[str]:
        """Yields the last refusal, if it was lately."""
        if self._last is not None and now_s - self._last[0] < ALARM_S:
            at_s, text = self._last
            count = sum(self.refused.values())
            yield f"refused a caller {now_s - at_s:.0f} s ago, {count} since the start; the last: {text}"

    def _read(self, spiffe_id: str) -> Identity | None:
        if not spiffe_id.startswith(self._prefix):
            return None
        try:
            return Identity.parse(spiffe_id.removeprefix(self._prefix))
        except NameRefused:
            return None

    def _refuse(self, spiffe_id: str, method: str, what: str, expected: str) -> None:
        service = method.removeprefix("/").partition("/")[0]
        self.refused[service if service in _SERVICES else "other"] += 1
        error = NotAllowed(spiffe_id, what, expected)
        now_s = self._clock()
        self._last = now_s, str(error)
        if now_s - self._logged_s < _LOG_EVERY_S:
            self._unlogged += 1
        else:
            _log.warning("%s%s", error, f" ({self._unlogged} more were not logged)" if self._unlogged else "")
            self._logged_s, self._unlogged = now_s, 0
        raise error

    def __repr__(self) -> str:
        """Returns the trust domain and the number of refusals."""
        return f"<Access {self._prefix} refused={sum(self.refused.values())}>"
