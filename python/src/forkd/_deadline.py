from __future__ import annotations

from time import monotonic

from ._errors import TimeoutError

_CONNECT_SECS_MAX = 10.0
"""The controller is on this host or near it, so one that is slower to connect to counts as absent."""


class Deadline:
    """The time of one request, with its retries and its body. Each step of the request is given what is left of it."""

    def __init__(self, seconds: float, what: str) -> None:
        """`seconds`: 0 is no limit. `what` names the request in the error."""
        self._seconds = seconds
        self._what = what
        self._end = monotonic() + seconds if seconds > 0 else None
        self.timeouts: dict[str, float | None] = {}
        """The time limits of the next step, in the form that httpx reads."""
        self.check()

    @property
    def is_over(self) -> bool:
        return self._end is not None and monotonic() >= self._end

    def check(self) -> None:
        """Raises `request_timeout` if the time is over, and else gives the next step what is left."""
        if self.is_over:
            raise self.error()
        left = None if self._end is None else self._end - monotonic()
        connect = _CONNECT_SECS_MAX if left is None else min(left, _CONNECT_SECS_MAX)
        self.timeouts.update(connect=connect, read=left, write=left, pool=left)

    def error(self) -> TimeoutError:
        return TimeoutError("request_timeout", f"{self._what}: no reply within {self._seconds:g} s.")
