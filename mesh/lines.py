"""Cuts a stream of bytes into lines, within a bound."""

from __future__ import annotations

from collections.abc import Iterator

LINE_BYTES_MAX = 1 << 20


class LineSplitter:
    r"""Collects bytes and hands out complete lines; a line longer than the bound is dropped whole.

    >>> lines = LineSplitter()
    >>> list(lines.feed(b"rea")), list(lines.feed(b"dy a=1\nnext")), list(lines.end())
    ([], ['ready a=1'], ['next'])
    """

    def __init__(self, line_bytes_max: int = LINE_BYTES_MAX) -> None:
        self._line_bytes_max = line_bytes_max
        self._rest = bytearray()
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[str]:
        """Yields the lines that `data` completes, without their ends; bad UTF-8 becomes U+FFFD."""
        *complete, rest = data.split(b"\n")
        for piece in complete:
            self._rest += piece
            if not self._skipping and len(self._rest) <= self._line_bytes_max:
                yield self._rest.decode(errors="replace").rstrip("\r")
            self._rest.clear()
            self._skipping = False
        self._rest += rest
        if len(self._rest) > self._line_bytes_max:
            self._rest.clear()
            self._skipping = True

    def end(self) -> Iterator[str]:
        """Yields the last line if the stream ended without a line end."""
        if self._rest and not self._skipping:
            yield self._rest.decode(errors="replace").rstrip("\r")
        self._rest.clear()
