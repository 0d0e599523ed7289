"""An API server with EndpointSlices and nothing else: lists in pages, watches, forgets, breaks off and asks for tokens.

Its answers have the shape of a real one's: `resourceVersion` counts changes of everything, a watch begins after one,
a version that was forgotten is answered 410 before the watch and as an event in it.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

_PATH = "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"
_BREAK = object()


class FakeKubernetes:
    """One API server of one test.

    Attributes:
        token: what callers have to show; anybody without it.
        refusals: answers to give instead, oldest first: status, message and further headers.
        lists, watches: how often each was asked for.
        versions: where each watch began.
        page: most objects of one answer.
    """

    def __init__(self, page: int = 500) -> None:
        self.token = ""
        self.refusals: list[tuple[int, str, dict[str, str]]] = []
        self.lists = self.watches = 0
        self.versions: list[int] = []
        self.page = page
        self._objects: dict[str, dict[str, Any]] = {}
        self._log: list[tuple[int, str, dict[str, Any]]] = []
        self._version, self._oldest = 100, 100
        self._streams: list[asyncio.Queue[Any]] = []

    def put(self, item: Mapping[str, Any]) -> None:
        """Adds or changes a slice."""
        name = item["metadata"]["name"]
        kind = "MODIFIED" if name in self._objects else "ADDED"
        self._objects[name] = self._change(kind, item)

    def remove(self, name: str) -> None:
        """Deletes a slice."""
        self._change("DELETED", self._objects.pop(name))

    def bookmark(self) -> None:
        """Tells watches how far they are."""
        self._version += 1
        self._tell("BOOKMARK", {"kind": "EndpointSlice", "metadata": {"resourceVersion": str(self._version)}})

    def forget(self, *, tell: bool = False) -> None:
        """Forgets all changes so far; watches from before hear of it if told so."""
        self._version += 1
        self._oldest = self._version
        self._log.clear()
        if tell:
            self._tell("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})

    def break_off(self) -> None:
        """Cuts every watch without a word."""
        for stream in self._streams:
            stream.put_nowait(_BREAK)

    def send(self, raw: bytes) -> None:
        """Writes bytes into every watch."""
        for stream in self._streams:
            stream.put_nowait(raw)

    @property
    def watching(self) -> int:
        """Number of watches that are open."""
        return len(self._streams)

    @asynccontextmanager
    async def serve(self, certificate: Path | None = None) -> AsyncIterator[str]:
        """Serves on a free port, over TLS with the `tls.crt` and `tls.key` of a folder; yields the URL."""
        app = web.Application()
        app.router.add_get(_PATH, self._get)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        context = None
        if certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(certificate / "tls.crt", certificate / "tls.key")
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        try:
            yield f"{'http' if context is None else 'https'}://127.0.0.1:{port}"
        finally:
            self.break_off()
            await runner.cleanup()

    def _change(self, kind: str, item: Mapping[str, Any]) -> dict[str, Any]:
        self._version += 1
        changed = {**item, "metadata": {**item["metadata"], "resourceVersion": str(self._version)}}
        self._log.append((self._version, kind, changed))
        self._tell(kind, changed)
        return changed

    def _tell(self, kind: str, item: Mapping[str, Any]) -> None:
        self.send(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _refuse(401, "Unauthorized", {})
        if self.refusals:
            return _refuse(*self.refusals.pop(0))
        if request.query.get("watch") == "true":
            return await self._watch(request)
        self.lists += 1
        start = int(request.query.get("continue", "0"))
        end = start + min(self.page, int(request.query["limit"]))
        chosen = [o for _, o in sorted(self._objects.items()) if _matches(o, request.query["labelSelector"])]
        metadata = {"resourceVersion": str(self._version)}
        if end < len(chosen):
            metadata["continue"] = str(end)
        return web.json_response({"kind": "EndpointSliceList", "metadata": metadata, "items": chosen[start:end]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.watches += 1
        since = int(request.query["resourceVersion"])
        self.versions.append(since)
        if since < self._oldest:
            return _refuse(410, "too old resource version", {})
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        stream: asyncio.Queue[Any] = asyncio.Queue()
        for version, kind, item in self._log:
            if version > since:
                stream.put_nowait(json.dumps({"type": kind, "object": item}).encode() + b"\n")
        self._streams.append(stream)
        try:
            while (piece := await stream.get()) is not _BREAK:
                # In two pieces: nobody promises that an event comes whole.
                for half in (piece[: len(piece) // 2], piece[len(piece) // 2 :]):
                    await response.write(half)
        except ConnectionError:
            pass
        finally:
            self._streams.remove(stream)
        return response


def _matches(item: Mapping[str, Any], selector: str) -> bool:
    key, _, value = selector.partition("=")
    return bool(item["metadata"].get("labels", {}).get(key) == value)


def _refuse(status: int, message: str, headers: dict[str, str]) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": status}
    return web.json_response(body, status=status, headers=headers)


def make_slice(name: str, *endpoints: Mapping[str, Any], service: str = "nodes", **changes: Any) -> dict[str, Any]:
    """Returns an EndpointSlice of a service with some endpoints."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "robots", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": list(endpoints) or None,  # what Go sends for an empty list
        "ports": [{"name": "grpc", "port": 8001, "protocol": "TCP"}, {"name": "metrics", "port": 8002}],
        **changes,
    }


def make_endpoint(pod: str, address: str, **conditions: bool | None) -> dict[str, Any]:
    """Returns an endpoint of a pod, ready unless the conditions say otherwise."""
    ready = {"ready": True, "serving": True, "terminating": False}
    return {
        "addresses": [address],
        "conditions": {**ready, **conditions},
        "nodeName": "worker-1",
        "zone": "eu-west-1a",
        "targetRef": {"kind": "Pod", "namespace": "robots", "name": pod, "uid": f"uid-{pod}"},
    }
