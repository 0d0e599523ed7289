"""Stands before every method of the control plane: whoever may not call it is refused before it runs."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from mesh.control.access import Access
from mesh.control.errors import NotAllowed
from mesh.control.wire import refuse

_BEHAVIOURS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Asks `access` about every call.

    Args:
        access: judges.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(
        self, continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]], details: grpc.HandlerCallDetails
    ) -> Any:
        """Returns the method, which refuses callers that may not call it."""
        handler = await continuation(details)
        if handler is None:
            return None
        method = details.method
        for name in _BEHAVIOURS:
            behaviour = getattr(handler, name)
            if behaviour is not None:
                return handler._replace(**{name: self._guarded(method, behaviour)})
        return handler

    def _guarded(self, method: str, behaviour: Any) -> Any:
        access = self._access

        async def answer(request: Any, context: Any) -> Any:
            try:
                access.check_method(read_spiffe_id(context), method)
            except NotAllowed as error:
                await refuse(context, error)
            return await behaviour(request, context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                access.check_method(read_spiffe_id(context), method)
            except NotAllowed as error:
                await refuse(context, error)
            async for response in behaviour(request, context):
                yield response

        # gRPC looks at which of the two a method is.
        return stream if inspect.isasyncgenfunction(behaviour) else answer


def read_spiffe_id(context: Any) -> str:
    """Returns the SPIFFE id that the caller's certificate proves; empty when it proves none, or more than one."""
    found = context.auth_context().get("peer_spiffe_id", ())
    return found[0].decode() if len(found) == 1 else ""
