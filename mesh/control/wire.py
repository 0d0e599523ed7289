"""Servers' side of the single door: an error of ours becomes a gRPC status with its details."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from services.host import encode_error

_CODES = {code.value[0]: code for code in grpc.StatusCode}


def answers(method: Callable[[Any, Any, Any], Awaitable[Any]]) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    """Returns a unary servicer method whose errors reach the caller as a status."""

    @functools.wraps(method)
    async def run(self: Any, request: Any, context: Any) -> Any:
        try:
            return await method(self, request, context)
        except Exception as error:
            await refuse(context, error)

    return run


def streams(method: Callable[[Any, Any, Any], AsyncIterator[Any]]) -> Callable[[Any, Any, Any], AsyncIterator[Any]]:
    """Returns a streaming servicer method whose errors reach the caller as a status."""

    @functools.wraps(method)
    async def run(self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in method(self, request, context):
                yield response
        except Exception as error:
            await refuse(context, error)

    return run


async def refuse(context: Any, error: Exception) -> None:
    """Ends a call with the status of an error; never returns."""
    if isinstance(error, grpc.aio.AbortError):
        raise error
    code, message, details = encode_error(error)
    await context.abort(_CODES[code], message, (("grpc-status-details-bin", details),))
