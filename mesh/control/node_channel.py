"""How the control plane calls a node."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc

from services.host import Address


async def connect_node(name: str, address: Address, certs: Path | None) -> grpc.aio.Channel:
    """Returns a channel to a node; whoever gets it closes it.

    Args:
        name: what the node has to prove with its certificate, wherever it is reached.
        address: where it answers gRPC.
        certs: folder with `tls.crt`, `tls.key` and `ca.crt`, read now; plain text without it.

    Raises:
        OSError: the files cannot be read.
    """
    if certs is None:
        return grpc.aio.insecure_channel(str(address))
    files = [certs / file for file in ("ca.crt", "tls.key", "tls.crt")]
    pem = await asyncio.to_thread(lambda: [file.read_bytes() for file in files])
    options = [("grpc.ssl_target_name_override", name)]
    return grpc.aio.secure_channel(str(address), grpc.ssl_channel_credentials(*pem), options)
