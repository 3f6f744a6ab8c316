# Made by scripts/python-sdk.mjs from the file of this name in `_async`. Not to be edited.
from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import httpx

from .._deadline import Deadline
from .._errors import ForkdError, error_from_reply
from .._parse import Ndjson, ServerSentEvents
from .._retry import RETRY_SECS, Repeatable, is_lost, is_passing, retry_after_secs, wait_secs
from .connection import Connection, RequestParts
from .platform import RequestBody, Stream, sleep

Query: TypeAlias = Mapping[str, str | int | bool | Sequence[str] | None]
Result = TypeVar("Result")

TIMEOUT_SECS_DEFAULT = 60.0
_ERROR_STATUS_MIN = 400
_ERROR_BYTES_MAX = 1024 * 1024


@dataclass(frozen=True)
class RequestSpec:
    method: str
    path: str
    query: Query = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: object = None
    raw: RequestBody | None = None
    repeatable: Repeatable | None = None
    """Default: `read` for GET, else `never`."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class Transport:
    """Sends requests over a connection: headers, deadline, retries, and errors that name the request and the controller."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def json(self, spec: RequestSpec, request_timeout: float) -> Any:
        content = self.content(spec, request_timeout, "application/json")
        if content == b"":
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise ForkdError("bad_response", f"{spec}: the reply is not JSON.") from error

    def content(self, spec: RequestSpec, request_timeout: float, accept: str = "*/*") -> bytes:
        deadline = Deadline(request_timeout, str(spec))

        def attempt() -> bytes:
            return _read(self._send(spec, accept, deadline), deadline)

        try:
            return _with_retries(spec, deadline, attempt)
        except httpx.HTTPError as error:
            raise self._explained(error, spec, deadline) from error

    def stream(self, spec: RequestSpec, request_timeout: float = 0, accept: str = "*/*") -> Stream[bytes]:
        """Streams the body. The request ends if the reader closes the stream."""
        deadline = Deadline(request_timeout, str(spec))

        def attempt() -> httpx.Response:
            return self._send(spec, accept, deadline)

        try:
            reply = _with_retries(spec, deadline, attempt)
            try:
                for chunk in reply.iter_raw():
                    deadline.check()
                    yield chunk
            finally:
                reply.close()
        except httpx.HTTPError as error:
            raise self._explained(error, spec, deadline) from error

    def events(self, spec: RequestSpec, request_timeout: float = 0) -> Stream[Any]:
        chunks = self.stream(spec, request_timeout, "application/x-ndjson")
        parser = Ndjson()
        try:
            for chunk in chunks:
                for event in parser.feed(chunk):
                    yield event
            for event in parser.end():
                yield event
        finally:
            chunks.close()

    def server_sent_events(self, spec: RequestSpec, request_timeout: float = 0) -> Stream[Any]:
        chunks = self.stream(spec, request_timeout, "text/event-stream")
        parser = ServerSentEvents()
        try:
            for chunk in chunks:
                for event in parser.feed(chunk):
                    yield event
        finally:
            chunks.close()

    def _send(self, spec: RequestSpec, accept: str, deadline: Deadline) -> httpx.Response:
        reply = self.connection.send(self._parts(spec, accept), deadline)
        # The body has what is left of the time.
        deadline.check()
        if reply.status_code < _ERROR_STATUS_MIN:
            return reply
        content = _read(reply, deadline, _ERROR_BYTES_MAX)
        raise error_from_reply(
            reply.status_code,
            content.decode(errors="replace"),
            request_id=reply.headers.get("x-request-id"),
            retry_after=retry_after_secs(reply.headers.get("retry-after")),
        )

    def _parts(self, spec: RequestSpec, accept: str) -> RequestParts:
        headers = {"accept": accept, "accept-encoding": "identity", **spec.headers}
        if self.connection.token is not None:
            headers["authorization"] = f"Bearer {self.connection.token}"
        content = spec.raw
        if spec.json is not None:
            headers["content-type"] = "application/json"
            content = json.dumps(spec.json)
        elif spec.raw is not None:
            headers["content-type"] = "application/octet-stream"
        return RequestParts(spec.method, spec.path + _query_string(spec.query), headers, content)

    def _explained(self, error: httpx.HTTPError, spec: RequestSpec, deadline: Deadline) -> ForkdError:
        """Names what happened to the request: its time was over, or the connection broke."""
        if isinstance(error, httpx.TimeoutException):
            return deadline.error()
        if not is_lost(error):
            return ForkdError("bad_request", f"{spec}: {error}.")
        is_plain = self.connection.place.startswith("http:")
        tls = " If its port speaks TLS, give its address with https://." if is_plain else ""
        return ForkdError(
            "stream_cut",
            f"{spec}: the connection was lost ({error or type(error).__name__}).",
            hint=f"The controller may have ended. Its log is <data directory>/run/controller.log.{tls}",
        )


def _with_retries(spec: RequestSpec, deadline: Deadline, attempt: Callable[[], Result]) -> Result:
    """Retries a bounded number of times, if a retry is safe and the failure is transient."""
    repeatable = spec.repeatable or ("read" if spec.method == "GET" else "never")
    lost: Exception | None = None
    for delay in RETRY_SECS:
        try:
            return attempt()
        except (ForkdError, httpx.HTTPError) as error:
            _raise_loss(error, lost)
            if deadline.is_over or not is_passing(error, repeatable):
                raise
            if is_lost(error):
                lost = error
            sleep(wait_secs(error, delay))
            deadline.check()
    try:
        return attempt()
    except ForkdError as error:
        _raise_loss(error, lost)
        raise


def _raise_loss(error: Exception, lost: Exception | None) -> None:
    """A refused retry says nothing about the first attempt, whose reply was lost. The loss is raised instead."""
    if lost is not None and isinstance(error, ForkdError) and error.code == "connection_failed":
        raise lost


def _read(reply: httpx.Response, deadline: Deadline, bytes_max: int | None = None) -> bytes:
    """Reads the body, or its beginning up to `bytes_max`."""
    content = bytearray()
    try:
        for chunk in reply.iter_raw():
            content += chunk
            deadline.check()
            if bytes_max is not None and len(content) >= bytes_max:
                break
    finally:
        reply.close()
    return bytes(content)


def segment(text: str) -> str:
    """Encodes a segment of a path."""
    return quote(text, safe="")


def _query_string(query: Query) -> str:
    pairs = [
        f"{name}={_encoded(one)}"
        for name, value in query.items()
        for one in (value if isinstance(value, Sequence) and not isinstance(value, str) else [value])
        if one is not None
    ]
    return f"?{'&'.join(pairs)}" if pairs else ""


def _encoded(value: str | int | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    # Names of files need not be UTF-8. The controller writes their other bytes as Python does.
    return quote(str(value), safe="", errors="surrogateescape")
