"""A snapshot: every resource that one gateway should have, with versions made from the contents."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from mesh.control.messages import short_name

_VERSION_BYTES = 8


@dataclass(frozen=True, slots=True)
class Versioned:
    """One resource on its way.

    Attributes:
        version: hash of the contents: equal contents have equal versions, also after a restart.
        body: the serialised resource with its type.
    """

    version: str
    body: AnyMessage


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Resources by type URL and name. Immutable; a change makes another one."""

    resources: Mapping[str, Mapping[str, Versioned]] = field(default_factory=dict)

    def of_type(self, type_url: str) -> Mapping[str, Versioned]:
        """Returns the resources of a type by name; none for an unknown type."""
        return self.resources.get(type_url, {})

    def version(self, type_url: str) -> str:
        """Returns one version for all resources of a type, as state-of-the-world discovery wants it."""
        words = (f"{name}={found.version}" for name, found in sorted(self.of_type(type_url).items()))
        return _hash("\n".join(words).encode())

    def with_messages(self, type_url: str, messages: Mapping[str, Message]) -> Snapshot:
        """Returns a snapshot in which the resources of one type are these."""
        return Snapshot({**self.resources, type_url: {name: _pack(type_url, m) for name, m in messages.items()}})

    def __repr__(self) -> str:
        """Returns the number of resources by type."""
        counts = " ".join(f"{short_name(url)}={len(found)}" for url, found in self.resources.items())
        return f"<Snapshot {counts or 'empty'}>"


def _pack(type_url: str, message: Message) -> Versioned:
    content = message.SerializeToString(deterministic=True)
    return Versioned(_hash(content), AnyMessage(type_url=type_url, value=content))


def _hash(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=_VERSION_BYTES).hexdigest()
