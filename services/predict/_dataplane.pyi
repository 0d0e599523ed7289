"""The native gRPC server of a node. See services/predict/README.md."""

from collections.abc import Mapping, Sequence

import engines._core


class ControlCall:
    """One message of a method that Python serves. Answer it once."""

    @property
    def method(self) -> str:
        """Full name, "/package.Service/Method"."""

    @property
    def message(self) -> bytes:
        """Serialised request. Copies."""

    @property
    def deadline_s(self) -> float:
        """Seconds left when it arrived."""

    def reply(self, response: bytes) -> None:
        """Sends a serialised response. Copies; releases the GIL."""

    def fail(self, code: int, message: str, details: bytes = ...) -> None:
        """
        Ends the call with a canonical status code and serialised google.rpc.Status details.
        """

    def __repr__(self) -> str: ...

class Tls:
    """TLS with client certificates, which may be replaced. Thread-safe."""

    def __init__(self, *, certificate: bytes, key: bytes, client_ca: bytes, clients: Sequence[str]) -> None:
        """
        certificate, key, client_ca: PEM. clients: SPIFFE ids that may connect, those ending in '/' with all below; empty: all. Raises InvalidConfig when they cannot be used.
        """

    def replace(self, *, certificate: bytes, key: bytes, client_ca: bytes) -> None:
        """
        New connections get these; raises InvalidConfig and changes nothing when they cannot be used.
        """

    @property
    def refused(self) -> int:
        """Clients with a good certificate whose name is not allowed."""

    def __repr__(self) -> str: ...

class Server:
    """
    Serves PredictService natively and hands other methods to next_call(). Thread-safe.
    """

    def __init__(self, models: engines._core.ModelRegistry, *, name: str, address: str, methods: Mapping[str, bool], message_bytes_max: int = 67108864, streams_max: int = 1024, shared_memory_bytes_max: int = 1073741824, triton_statuses: bool = False, load_reports: bool = False, tls: Tls | None = None) -> None:
        """
        methods: full name -> whether it streams. Raises InvalidConfig when the address can not be bound.
        """

    @property
    def port(self) -> int:
        """The bound port."""

    def set_serving(self, serving: bool) -> None:
        """Sets grpc.health.v1 for every service."""

    def next_call(self, timeout_s: float) -> ControlCall | None:
        """
        Returns the next ControlCall, or None after the timeout. Releases the GIL.
        """

    def drain(self, grace_s: float) -> int:
        """
        Refuses new requests, answers admitted ones, closes; returns the calls cut off. Releases the GIL.
        """

    def register_region(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """
        Opens a region of system shared memory for requests. Raises InvalidInput, AlreadyExists or QueueFull.
        """

    def unregister_region(self, name: str) -> None:
        """Forgets a region, or all for "". Requests that use it finish."""

    def regions(self) -> list[tuple[str, str, int, int]]:
        """Returns name, key, offset and byte_size of every region, by name."""

    def stats(self) -> dict[str, int]:
        """Counters of the server."""

    def __repr__(self) -> str: ...

class LinkReply:
    """How a call to another server ended."""

    @property
    def code(self) -> int:
        """Canonical status code; 0 is OK."""

    @property
    def message(self) -> str:
        """What the server said about it."""

    @property
    def payload(self) -> bytes:
        """Serialised response. Copies."""

    def __repr__(self) -> str: ...

class LinkStream:
    """
    A bidirectional stream. One thread may read while another writes. Releases the GIL.
    """

    def write(self, message: bytes) -> bool:
        """Sends a serialised message; False once the stream is broken. Copies."""

    def read(self) -> bytes | None:
        """
        Waits for the next serialised message; None at the end of the stream. Copies.
        """

    def cancel(self) -> None:
        """Ends the stream soon; a waiting read returns."""

    def finish(self) -> LinkReply:
        """Returns how it ended; call once, after read() returned None."""

    def __repr__(self) -> str: ...

class LinkTls:
    """How another server is known, and what we show it."""

    def __init__(self, *, certificate: bytes, key: bytes, authorities: bytes, server: str) -> None:
        """
        PEM. server: its SPIFFE id, with all below if it ends in '/'; empty: its host name.
        """

class Link:
    """
    Calls another gRPC server by raw bytes. Repairs its connection. Thread-safe.
    """

    def __init__(self, target: str, tls: LinkTls | None = None) -> None:
        """Plain text without tls."""

    def call(self, method: str, request: bytes, timeout_s: float) -> LinkReply:
        """Calls "/package.Service/Method" and waits. Releases the GIL."""

    def open(self, method: str) -> LinkStream:
        """Opens a bidirectional stream. Releases the GIL."""

    def __repr__(self) -> str: ...
