"""The far end of a link under test: sends bytes back, or counts them.

Run as its own process: `python -m mesh.bench.byte_server ADDRESS`. It prints `ready at=ADDRESS:PORT`. The first byte of
a connection says what it wants: `e` to get everything back, `c` to get only the number of bytes, once it has ended.
"""

from __future__ import annotations

import socket
import struct
import sys

_BUFFER_BYTES = 1 << 20


def main() -> None:
    """Serves one connection after the other until it is ended by a signal."""
    with socket.create_server((sys.argv[1], 0)) as server:
        print(f"ready at={sys.argv[1]}:{server.getsockname()[1]}", flush=True)
        buffer = bytearray(_BUFFER_BYTES)
        while True:
            connection, _ = server.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _serve(connection, buffer)


def _serve(connection: socket.socket, buffer: bytearray) -> None:
    echoes = connection.recv(1) == b"e"
    total = 0
    while size := connection.recv_into(buffer):
        total += size
        if echoes:
            connection.sendall(memoryview(buffer)[:size])
    if not echoes:
        connection.sendall(struct.pack("!q", total))


if __name__ == "__main__":
    main()
