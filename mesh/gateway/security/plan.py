"""What a secure gateway has to be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.host import Address


@dataclass(frozen=True, slots=True)
class Rate:
    """How much one tenant may ask.

    Attributes:
        per_s: requests a second in the long run, >= 1; opening a stream counts as one.
        burst: requests at once after a pause, >= 1.
    """

    per_s: int
    burst: int

    def __post_init__(self) -> None:
        """Refuses a rate that would let nobody through.

        Raises:
            ValueError: says what was expected.
        """
        if self.per_s < 1 or self.burst < 1:
            raise ValueError(f"a rate of {self.per_s}/s with bursts of {self.burst}; expected both >= 1")


DEFAULT_RATE = Rate(per_s=500, burst=1000)
"""Fifty robots of one tenant at 10 Hz; more than the local mesh answers, so that only a flood is cut."""


@dataclass(frozen=True, slots=True)
class RemoteKeys:
    """A token issuer that publishes its keys over HTTPS.

    Attributes:
        uri: of the JSON web key set, `https://HOST/PATH`.
        address: where that host is reached.
        ca: authorities that its certificate may come from, PEM.
    """

    uri: str
    address: Address
    ca: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityPlan:
    """Who may call the gateway, whom it calls, and how much a tenant may ask. Paths are on the gateway's machine.

    Attributes:
        certificates: folder with `tls.crt`, `tls.key` and `ca.crt`; replaced by swapping `..data` inside it, as
            `starling certs` and Kubernetes do.
        secrets: folder of the files of `build_secrets`, which tell Envoy to follow that folder.
        keys: checks tokens: the text of a JSON web key set, or where to fetch one.
        trust_domain: first part of every SPIFFE id.
        issuer, audience: what a token has to say.
        rate: of a tenant that has none of its own.
        rate_by_tenant: of tenants that have.
        rate_everywhere: the control plane counts too, over all gateways together, which costs every request a round
            trip to it; each gateway only counts for itself without.
    """

    certificates: Path
    secrets: Path
    keys: str | RemoteKeys
    trust_domain: str
    issuer: str
    audience: str
    rate: Rate = DEFAULT_RATE
    rate_by_tenant: Mapping[str, Rate] = field(default_factory=dict)
    rate_everywhere: bool = False
