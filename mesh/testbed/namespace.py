"""Calls a function with the network of another host, and runs programs there."""

from __future__ import annotations

import asyncio
import ctypes
import os
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from mesh.program import Program

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000


def call_inside(namespace: str, call: Callable[[], T]) -> T:
    """Returns what a function returns when it is called in a thread that has moved into a network namespace.

    Sockets that it opens stay in that namespace and may be used from anywhere.

    Args:
        namespace: path of the namespace, such as `/proc/PID/fd/N`.
        call: may block; it starts no process.

    Raises:
        OSError: the namespace cannot be entered.
        Exception: what the function raised.
    """
    done: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            _enter(namespace)
            done.append(call())
        except BaseException as error:  # handed to the caller
            raised.append(error)

    thread = threading.Thread(target=run, name=f"inside {namespace}")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return done[0]


async def run_inside(namespace: str, start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Returns what a coroutine returns when it runs on an event loop of its own in a network namespace.

    Raises:
        OSError: the namespace cannot be entered.
        Exception: what the coroutine raised.
    """
    return await asyncio.to_thread(call_inside, namespace, lambda: asyncio.run(start()))


def place_inside(namespace: str, program: Program) -> Program:
    """Returns the program such that it runs, and is probed, in a network namespace."""
    # `nsenter` becomes the program by exec: process id, pipes and the leash stay.
    command = ("nsenter", f"--net={namespace}", "--", *program.command)
    probe = program.probe
    if probe is None:
        return replace(program, command=command)

    async def probe_inside() -> Mapping[str, str] | None:
        async def look() -> Mapping[str, str] | None:
            return await probe()

        return await run_inside(namespace, look)

    return replace(program, command=command, probe=probe_inside)


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:  # os.setns comes with Python 3.12
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), namespace)
    finally:
        os.close(fd)
