from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from .._connect_failure import connect_error_code, connect_failure
from .._deadline import Deadline
from .._places import resolve_target
from .._retry import CONNECT_RETRY_SECS
from .local import AsyncStarter
from .platform import RequestBody, sleep

_IDLE_SECS_MAX = 10.0
"""The controller keeps connections far longer, so no request uses a connection that the controller is about to close."""


@dataclass(frozen=True)
class RequestParts:
    method: str
    path: str
    headers: Mapping[str, str]
    content: RequestBody | None

    @property
    def is_stream(self) -> bool:
        """True if the body can be sent only once."""
        return self.content is not None and not isinstance(self.content, (str, bytes))


class AsyncConnection:
    """Sends requests to one controller. Starts it if nobody named one and none runs."""

    def __init__(self, *, url: str | None = None, socket: str | None = None, token: str | None = None) -> None:
        target = resolve_target(url, socket)
        self.token = token or os.environ.get("FORKD_TOKEN") or None
        self.place = target.place
        """The address of the controller, for messages."""
        self._base = target.base
        self._starter = None if target.local is None else AsyncStarter(target.local)
        transport = httpx.AsyncHTTPTransport(
            uds=target.socket,
            # Certificates are loaded only where they are needed: that takes longer than a request.
            verify=target.base.startswith("https:"),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=_IDLE_SECS_MAX),
        )
        self._http = httpx.AsyncClient(transport=transport, headers={"user-agent": "forkd-python"})

    async def send(self, parts: RequestParts, deadline: Deadline) -> httpx.Response:
        """Returns the reply before its body. Repeats an attempt to connect, but no request that may have been sent."""
        if self._starter is not None:
            await self._starter.before(parts.is_stream, deadline)
        attempt = 0
        while True:
            deadline.check()
            request = self._http.build_request(
                parts.method,
                self._base + parts.path,
                headers=dict(parts.headers),
                content=parts.content,
                extensions={"timeout": deadline.timeouts},
            )
            try:
                response = await self._http.send(request, stream=True)
            except httpx.TransportError as error:
                code = connect_error_code(error)
                if not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)) and code != "ENOTCONN":
                    raise
                if deadline.is_over:
                    raise deadline.error() from error
                if self._starter is not None and not parts.is_stream and await self._starter.after(code, deadline):
                    continue
                delays = CONNECT_RETRY_SECS.get(code or "", ())
                if attempt == len(delays) or parts.is_stream:
                    raise connect_failure(code, error, self.place) from error
                await sleep(delays[attempt])
                attempt += 1
                continue
            if self._starter is not None:
                self._starter.answered()
            return response

    async def close(self) -> None:
        await self._http.aclose()
