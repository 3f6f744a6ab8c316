"""What differs between the two clients beyond what `_sync` is translated from. The twin of this file is written by hand, too."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, nullcontext
from threading import Lock
from time import sleep
from typing import TypeAlias, TypeVar

__all__ = ["Lock", "RequestBody", "Stream", "loop_token", "shielded", "sleep"]

Value = TypeVar("Value")

Stream: TypeAlias = Generator[Value, None, None]
RequestBody: TypeAlias = str | bytes | Iterable[bytes]


def loop_token() -> object:
    """The same for all threads: they share connections."""
    return None


def shielded() -> AbstractContextManager[object]:
    """Nothing cancels a thread."""
    return nullcontext()
