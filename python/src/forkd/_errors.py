from __future__ import annotations

import builtins
import json
from collections.abc import Mapping
from typing import Any

from ._constants import ERROR_STATUS

_EXCERPT_CHARS_MAX = 200


class ForkdError(Exception):
    """Any failure of a call, except that the caller cancelled or interrupted it.

    `code` is stable: an error code of the API, or one of the client: `connection_failed`, `request_timeout`, `bad_response`,
    `stream_cut`, `controller_not_running`, `controller_missing`, `controller_failed`. The subclasses allow catching by class.
    """

    code: str
    status: int
    """The HTTP status of the reply; 0 if there was no reply."""
    hint: str | None
    """Advice: what the user can do about the error."""
    request_id: str | None
    """Identifies the request in the controller's log."""
    retry_after: float | None
    """The wait before a retry that the reply asked for, in seconds."""
    body: Mapping[str, Any] | None
    """The whole body, since some codes carry more: `dependents`, or the output of a command that timed out."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 0,
        hint: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.hint = hint
        self.request_id = request_id
        self.retry_after = retry_after
        self.body = body
        # Shown below the message of an uncaught error. Python 3.10 has no notes.
        if hint is not None and hasattr(self, "add_note"):
            self.add_note(f"Hint: {hint}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self.code, str(self), self.__dict__)


class AuthenticationError(ForkdError):
    """401: the token is missing or wrong."""


class NotFoundError(ForkdError):
    """404: the sandbox, snapshot, workspace, command or file does not exist. `code` says which."""


class ConflictError(ForkdError):
    """409: the resource exists already, is busy, or is in the wrong state."""


class TimeoutError(ForkdError, builtins.TimeoutError):
    """No reply within the time of the request (`request_timeout`), or 504: the command or evaluation took too long."""


_CLASS_OF_STATUS: Mapping[int, type[ForkdError]] = {
    401: AuthenticationError,
    404: NotFoundError,
    409: ConflictError,
    504: TimeoutError,
}


def error_from_reply(status: int, text: str, *, request_id: str | None, retry_after: float | None) -> ForkdError:
    """Makes an error of a reply with status 400 or more. A proxy may have written the reply, without a code and a hint."""
    kind = _CLASS_OF_STATUS.get(status, ForkdError)
    body = _parse_body(text)
    if body is None:
        excerpt = text.strip()[:_EXCERPT_CHARS_MAX]
        message = f"The server answered HTTP {status}{f': {excerpt}' if excerpt else '.'}"
        return kind("bad_response", message, status=status, request_id=request_id, retry_after=retry_after)
    code, hint = body.get("code"), body.get("hint")
    return kind(
        code if isinstance(code, str) else "bad_response",
        body["error"],
        status=status,
        hint=hint if isinstance(hint, str) else None,
        request_id=request_id,
        retry_after=retry_after,
        body=body,
    )


def error_from_event(event: Mapping[str, Any]) -> ForkdError:
    """Makes an error of the event that ended a streamed reply."""
    code = str(event.get("code", "bad_response"))
    kind = _CLASS_OF_STATUS.get(ERROR_STATUS.get(code, 0), ForkdError)
    hint = event.get("hint")
    return kind(code, str(event.get("error", "")), hint=hint if isinstance(hint, str) else None)


def _parse_body(text: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(text)
    except ValueError:
        return None
    return parsed if isinstance(parsed, dict) and isinstance(parsed.get("error"), str) else None


def _restore(kind: type[ForkdError], code: str, message: str, state: dict[str, Any]) -> ForkdError:
    error = kind(code, message)
    error.__dict__.update(state)
    return error
