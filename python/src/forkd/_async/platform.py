"""What differs between the two clients beyond what `_sync` is translated from. The twin of this file is written by hand, too."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import AbstractContextManager
from typing import TypeAlias, TypeVar

from anyio import CancelScope, Lock, sleep
from anyio.lowlevel import current_token

__all__ = ["Lock", "RequestBody", "Stream", "loop_token", "shielded", "sleep"]

Value = TypeVar("Value")

Stream: TypeAlias = AsyncGenerator[Value, None]
RequestBody: TypeAlias = str | bytes | AsyncIterable[bytes]


def loop_token() -> object:
    """Stands for the event loop. Its connections cannot be used in another one."""
    return current_token()


def shielded() -> AbstractContextManager[object]:
    """A block that is carried out even if the task is being cancelled. What it waits for must have a time limit."""
    return CancelScope(shield=True)
