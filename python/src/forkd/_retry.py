from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Literal, TypeAlias

import httpx

from ._errors import ForkdError

Repeatable: TypeAlias = Literal["read", "keyed", "never"]
"""Says if a request may be repeated after it may have reached the controller.

`read`: changes nothing. `keyed`: carries an Idempotency-Key, so the controller executes it once. `never`: all others.
"""

RETRY_SECS: Sequence[float] = (0.1, 0.3, 0.9)
RETRY_AFTER_SECS_MAX = 10.0
"""Longer waits are left to the caller: the error says how long."""
PASSING_STATUS = frozenset({502, 503, 504})
CONNECT_RETRY_SECS: Mapping[str, Sequence[float]] = {
    "ECONNREFUSED": (0.02, 0.06, 0.18),
    # A controller listens, but more callers than it lets wait have come at once. asyncio notices only when it writes.
    "EAGAIN": (0.02, 0.06, 0.18, 0.54, 1.6),
    "ENOTCONN": (0.02, 0.06, 0.18, 0.54, 1.6),
}
"""Delays between attempts to connect, by error code. No byte was sent, so any request can be repeated."""


def is_lost(error: BaseException) -> bool:
    """True if the connection broke when the request may have reached the controller."""
    return isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)) and not isinstance(
        error, httpx.ConnectError
    )


def is_passing(error: Exception, repeatable: Repeatable) -> bool:
    if repeatable == "never":
        return False
    if is_lost(error):
        return True
    if not isinstance(error, ForkdError) or error.status not in PASSING_STATUS:
        return False
    if (error.retry_after or 0) > RETRY_AFTER_SECS_MAX:
        return False
    # An error body comes from the controller and is its reply. A proxy's error does not say if the controller has acted.
    return repeatable == "read" or error.body is None


def wait_secs(error: Exception, delay: float) -> float:
    asked = error.retry_after if isinstance(error, ForkdError) else None
    # Jitter: clients that were disconnected together must not all retry together.
    return delay * (0.5 + random.random() / 2) if asked is None else asked  # noqa: S311


def retry_after_secs(header: str | None) -> float | None:
    """Parses the header Retry-After: seconds, or a date."""
    if header is None:
        return None
    try:
        if header.strip().isdecimal():
            return float(header)
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except (OverflowError, ValueError):
        return None
