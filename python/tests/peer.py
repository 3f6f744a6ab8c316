"""A peer in place of the controller, which may lose replies, lie, or say nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from typing_extensions import Self

LOST = b""
"""A reply that gets lost: the connection ends before its first byte."""
SILENCE = None
"""No reply, and no end of the connection either."""


@dataclass
class Asked:
    line: str
    headers: dict[str, str]
    body: bytes


def reply(status: int, body: object, headers: Sequence[str] = ()) -> bytes:
    """A whole reply: JSON, or the bytes that are given."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [f"HTTP/1.1 {status} Because", f"content-length: {len(content)}", "connection: close", *headers]
    return "\r\n".join([*head, "", ""]).encode() + content


def stream(content: bytes) -> bytes:
    """A reply that ends with its connection."""
    return b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + content


@dataclass
class Peer:
    """Answers its first request with the first reply, and so on; the last reply is repeated."""

    replies: Sequence[bytes | None]
    endless: bytes = b""
    """Sent again and again after the reply, until the client ends the connection."""
    tls: ssl.SSLContext | None = None
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    @property
    def url(self) -> str:
        scheme = "http" if self.tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        # Ends the wait for the next connection.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while not self._end.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            # A client that gives up, or that does not trust the certificate, ends the connection.
            with connection, contextlib.suppress(OSError):
                connection.settimeout(10)
                self._answer(connection if self.tls is None else self.tls.wrap_socket(connection, server_side=True))

    def _answer(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            line = lines.readline().decode(errors="replace").strip()
            if "HTTP/" not in line:
                connection.sendall(reply(400, b""))
                return
            headers: dict[str, str] = {}
            while entry := lines.readline().decode().strip():
                name, _, value = entry.partition(":")
                headers[name.lower()] = value.strip()
            body = lines.read(int(headers.get("content-length", 0)))
            index = min(len(self.asked), len(self.replies) - 1)
            self.asked.append(Asked(line, headers, body))
            answer = self.replies[index]
            if answer is None:
                self._await_end_of(connection)
                return
            connection.sendall(answer)
            while self.endless and not self._end.wait(0.05):
                connection.sendall(self.endless)

    def _await_end_of(self, connection: socket.socket) -> None:
        connection.settimeout(0.05)
        while not self._end.is_set():
            with contextlib.suppress(TimeoutError):
                if connection.recv(1) == b"":
                    return


def body_of(asked: Asked) -> Any:
    return json.loads(asked.body)
