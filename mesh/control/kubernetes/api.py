"""The Kubernetes API as far as we need it: lists and watches of one kind of object, with the account of our pod."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

_CONNECT_S = 5.0
_LIST_S = 30.0
_LIST_BYTES_MAX = 64 << 20
_EVENT_BYTES_MAX = 16 << 20  # a slice has at most 1000 endpoints, some 400 KiB
_PAGE = 500
_TEXT_MAX = 300
# A peer that vanished without a word is noticed after 10 + 3 * 5 s, though a watch may be quiet for minutes.
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 10), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3))


class ApiRefused(Exception):
    """The API server answered, and not with what was asked for.

    Attributes:
        code: HTTP status.
        retry_after_s: how long it wants to be left alone; 0 when it does not say.
    """

    def __init__(self, code: int, message: str, retry_after_s: float = 0.0) -> None:
        self.code = code
        self.retry_after_s = retry_after_s
        super().__init__(f"status {code}: {message[:_TEXT_MAX]}")


class Malformed(Exception):
    """What came is not what an API server sends."""


class KubernetesApi:
    """Calls one API server. Token and authority are read again for every call, as they are replaced every hour or so.

    Args:
        url: of the server, `https://HOST:PORT`; `http://` for a `kubectl proxy` on this machine, which gets no token.
        account: folder with `token` and `ca.crt`.
    """

    def __init__(self, url: str, account: Path) -> None:
        self._url, self._account = url.rstrip("/"), account

    async def list(self, path: str, selector: str) -> tuple[list[Mapping[str, Any]], str]:
        """Returns all objects with some labels, page by page, and the version from which to watch.

        Raises:
            ApiRefused, Malformed, aiohttp.ClientError, OSError, TimeoutError: they cannot be had.
        """
        items: list[Mapping[str, Any]] = []
        query = {"labelSelector": selector, "limit": str(_PAGE)}
        async with self._open() as session, asyncio.timeout(_LIST_S):
            while True:
                async with session.get(self._url + path, params=query) as response:
                    await _check(response)
                    page = _parse(await _read_all(response))
                metadata = page.get("metadata") or {}
                items += page.get("items") or ()
                if not metadata.get("continue"):
                    return items, str(metadata.get("resourceVersion") or "")
                query["continue"] = metadata["continue"]

    async def watch(
        self, path: str, selector: str, version: str, lasts_s: float, opened: Callable[[], None]
    ) -> AsyncGenerator[Mapping[str, Any], None]:
        """Yields events, `{"type": …, "object": …}`, until the server ends the watch.

        Args:
            path: as of the list.
            selector: as of the list.
            version: after which events begin.
            lasts_s: after which the server should end it; we do a little later.
            opened: told once the server has agreed; the first event may take minutes.

        Raises:
            ApiRefused, Malformed, aiohttp.ClientError, OSError, TimeoutError: it broke.
        """
        query = {
            "labelSelector": selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, round(lasts_s))),
        }
        async with (
            self._open() as session,
            asyncio.timeout(lasts_s + _LIST_S),
            session.get(self._url + path, params=query) as response,
        ):
            await _check(response)
            opened()
            rest = b""
            async for piece in response.content.iter_any():
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield _parse(line)
                if len(rest) > _EVENT_BYTES_MAX:
                    raise Malformed(f"an event has more than {_EVENT_BYTES_MAX} bytes")
            if rest.strip():
                raise Malformed("the watch ended in the middle of an event")

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[aiohttp.ClientSession]:
        headers, context = await asyncio.to_thread(self._read_account)
        connector = aiohttp.TCPConnector(ssl=context, socket_factory=_make_socket)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
            yield session

    def _read_account(self) -> tuple[dict[str, str], ssl.SSLContext | bool]:
        if not self._url.startswith("https://"):
            return {}, True  # a token never travels in plain text
        token = (self._account / "token").read_text("ascii").strip()
        return {"Authorization": f"Bearer {token}"}, ssl.create_default_context(cafile=self._account / "ca.crt")

    def __repr__(self) -> str:
        """Returns where it is."""
        return f"<KubernetesApi {self._url}>"


def _make_socket(info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = info
    made = socket.socket(family, kind, protocol)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status == 200:
        return
    body = (await response.content.read(4096)).decode("utf-8", "replace")
    try:
        message = str(json.loads(body)["message"])  # a `Status` object
    except (ValueError, KeyError, TypeError):
        message = body
    wait = response.headers.get("Retry-After", "")
    raise ApiRefused(response.status, message, float(wait) if wait.isdecimal() else 0.0)


async def _read_all(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > _LIST_BYTES_MAX:
            raise Malformed(f"a page of the list has more than {_LIST_BYTES_MAX} bytes")
    return bytes(body)


def _parse(text: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise Malformed(f"no JSON: {text[:_TEXT_MAX]!r}") from error
    if not isinstance(found, dict):
        raise Malformed(f"no JSON object: {text[:_TEXT_MAX]!r}")
    return found
