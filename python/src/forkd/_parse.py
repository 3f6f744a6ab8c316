"""Parsers of streamed replies. They take chunks that are split anywhere, inside a line or inside a character."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ._constants import NDJSON_LINE_BYTES_MAX
from ._errors import ForkdError

_EXCERPT_CHARS_MAX = 120


class Lines:
    """Splits a stream into lines of a bounded length."""

    def __init__(self) -> None:
        # The pieces of the unfinished line are joined once, so that many small chunks cost linear time.
        self._pieces: list[bytes] = []
        self._pending_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join([*self._pieces, line])
            self._pieces, self._pending_bytes = [], 0
        if rest:
            self._pieces.append(rest)
            self._pending_bytes += len(rest)
            if self._pending_bytes > NDJSON_LINE_BYTES_MAX:
                raise ForkdError("bad_response", f"The stream has a line of more than {NDJSON_LINE_BYTES_MAX} bytes.")

    def rest(self) -> bytes:
        return b"".join(self._pieces)


class Ndjson:
    """Parses one JSON value per line. Raises `bad_response` for a line that is not JSON or is too long."""

    def __init__(self) -> None:
        self._lines = Lines()

    def feed(self, chunk: bytes) -> Iterator[Any]:
        for line in self._lines.feed(chunk):
            if line.strip():
                yield _parse(line)

    def end(self) -> Iterator[Any]:
        """A last line without a newline is complete if it parses. Raises `stream_cut` otherwise."""
        rest = self._lines.rest()
        if not rest.strip():
            return
        try:
            yield json.loads(rest)
        except ValueError as error:
            raise ForkdError("stream_cut", "The stream ended inside a line: the connection was lost.") from error


class ServerSentEvents:
    """Parses the JSON `data` of server-sent events. Comments, which keep the connection alive, are skipped."""

    def __init__(self) -> None:
        self._lines = Lines()
        self._data = b""

    def feed(self, chunk: bytes) -> Iterator[Any]:
        for line in self._lines.feed(chunk):
            if line.startswith(b"data:"):
                self._data += line.removeprefix(b"data:").strip()
                if len(self._data) > NDJSON_LINE_BYTES_MAX:
                    raise ForkdError(
                        "bad_response", f"The stream has an event of more than {NDJSON_LINE_BYTES_MAX} bytes."
                    )
            elif not line.strip() and self._data:
                data, self._data = self._data, b""
                yield _parse(data)

    def end(self) -> Iterator[Any]:
        """An event that the end of the stream cut off is dropped, as in a browser."""
        return iter(())


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        excerpt = line[:_EXCERPT_CHARS_MAX].decode(errors="replace")
        raise ForkdError("bad_response", f"The stream has a line that is not JSON: {excerpt}") from error
