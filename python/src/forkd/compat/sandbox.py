from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from typing_extensions import Self

from .._output import CommandResult
from .._sync.sandbox import Sandbox as PresentSandbox

_TAG_DEFAULT = "pyagent"


class Sandbox:
    """The `Sandbox` of the earlier package, for code that was written for it. `forkd.Sandbox` can do more."""

    def __init__(self, tag: str | None = None, target: str | None = None, timeout: float = 30, *, spawn: bool = True):
        """Forks a child of the snapshot `tag` (default: FORKD_TAG, then `pyagent`). `timeout`: seconds for the fork.

        Guests have no address here: `target` is ignored, and `spawn=False`, which connected to one, is a ValueError.
        """
        if not spawn:
            raise ValueError("A guest has no address to connect to. Use forkd.Sandbox.connect(id).")
        self.target = target
        self.tag = tag or os.environ.get("FORKD_TAG") or _TAG_DEFAULT
        self._sandbox = PresentSandbox.create(self.tag, request_timeout=timeout)
        self.commands = _Commands(self._sandbox)

    @classmethod
    def create(cls, *args: Any, **options: Any) -> Self:
        return cls(*args, **options)

    def eval(self, code: str) -> object:
        """Returns the `repr` of the result. Raises RuntimeError if the code raises."""
        reply = self._sandbox.eval(code)
        if reply["error"]:
            raise RuntimeError(f"forkd eval: {reply['error']}")
        return reply["result"]

    def ping(self) -> dict[str, Any]:
        return {**self._sandbox.ping()}

    def kill(self) -> None:
        """Ends the sandbox. A second call does nothing."""
        self._sandbox.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class _Commands:
    def __init__(self, sandbox: PresentSandbox) -> None:
        self._sandbox = sandbox

    def run(self, cmd: str | Sequence[str], timeout: float = 30) -> CommandResult:
        """Runs a program, or a line for the guest's `/bin/sh`, for at most `timeout` seconds."""
        return self._sandbox.commands.run(cmd, timeout=timeout)
