"""The address value: a host and a port, written `HOST:PORT`."""

from __future__ import annotations

from dataclasses import dataclass, replace

_PORT_MAX = 65535


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a process listens or is reached.

    Attributes:
        host: a name, an IPv4 address, or an IPv6 address without brackets; never empty.
        port: 0 to 65535. Zero asks the system for a free port and is only good for listening.

    >>> Address.parse("[::1]:8001")
    Address(host='::1', port=8001)
    >>> str(Address("127.0.0.1", 0).with_port(50051))
    '127.0.0.1:50051'
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        """Refuses values that no address can have.

        Raises:
            ValueError: the host is empty or the port is out of range.
        """
        if not self.host:
            raise ValueError("host is empty; write 127.0.0.1 for this machine, 0.0.0.0 for all")
        if not 0 <= self.port <= _PORT_MAX:
            raise ValueError(f"port {self.port} is out of range; expected 0 to {_PORT_MAX}")

    @classmethod
    def parse(cls, text: str) -> Address:
        """Returns the address that `HOST:PORT` or `[IPV6]:PORT` spells.

        Raises:
            ValueError: says what was found and what was expected.
        """
        host, colon, port = text.strip().rpartition(":")
        if not colon:
            raise ValueError(f"{text!r} has no port; expected HOST:PORT such as 127.0.0.1:8001")
        bracketed = host.startswith("[") and host.endswith("]")
        if ":" in host and not bracketed:
            raise ValueError(f"{text!r} is ambiguous; write an IPv6 address as [{host}]:{port}")
        if not (port.isascii() and port.isdigit()):
            raise ValueError(f"{text!r} has port {port!r}; expected a number from 0 to {_PORT_MAX}")
        return cls(host[1:-1] if bracketed else host, int(port))

    def with_port(self, port: int) -> Address:
        """Returns the same host with another port, such as the one the system chose."""
        return replace(self, port=port)

    def __str__(self) -> str:
        """Returns the text that `parse` reads back."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
