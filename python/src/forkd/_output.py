from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from ._constants import COLLECTED_OUTPUT_BYTES_MAX


@dataclass(frozen=True)
class CommandExit:
    exit_code: int | None
    """128 + the signal if a signal ended the command; None if the stream did not report an exit code."""
    signal: str | None
    """The name of the signal, without SIG."""
    timed_out: bool


@dataclass(frozen=True)
class CommandResult:
    stdout: str
    stderr: str
    exit_code: int | None
    """128 + the signal if a signal ended the command; None if the stream did not report an exit code."""
    signal: str | None = None
    """The name of the signal, without SIG."""
    timed_out: bool = False
    truncated: bool = False
    """Output is missing in `stdout` or `stderr`: see the counts below. The handlers still received all but the lost bytes."""
    stdout_dropped_bytes: int = 0
    """Bytes beyond the first 64 MiB of the stream, which are not kept."""
    stderr_dropped_bytes: int = 0
    lost_bytes: int = 0
    """Bytes of output that the ring buffer had already overwritten when they were requested."""


@dataclass(frozen=True)
class Output:
    """A chunk of output. `offset` is the place of its first byte in the whole output of the command."""

    type: Literal["stdout", "stderr"]
    offset: int
    data: bytes


@dataclass(frozen=True)
class Gap:
    """Output from offset `start` up to `end` that the ring buffer has overwritten."""

    start: int
    end: int
    type: Literal["gap"] = "gap"


OutputChunk: TypeAlias = Output | Gap


class CollectedOutput:
    """Keeps the beginning of a stream of output, up to a limit, and counts the bytes beyond the limit."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self.dropped_bytes = 0
        """The number of bytes beyond the limit, which are not kept."""

    def add(self, chunk: bytes) -> None:
        kept = chunk[: COLLECTED_OUTPUT_BYTES_MAX - len(self._kept)]
        self._kept += kept
        self.dropped_bytes += len(chunk) - len(kept)

    def text(self) -> str:
        return self._kept.decode(errors="replace")
