# Made by scripts/python-sdk.mjs from the file of this name in `_async`. Not to be edited.
from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import cast

from typing_extensions import Self

from .. import models
from .._output import CommandExit, OutputChunk
from .client import ForkdClient
from .commands import CommandHandle, Commands, CommandLine
from .options import given
from .platform import Stream

DataHandler = Callable[[bytes], object]


class Ptys:
    """The terminals of one sandbox. A terminal belongs to the guest: it outlives this connection and survives a fork.

    Its output is followed over HTTP: a reader who stops reading holds the program up, as with a command.
    """

    def __init__(self, client: ForkdClient, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._commands = Commands(client, sandbox_id)

    def create(
        self,
        *,
        cols: int = 80,
        rows: int = 24,
        command: CommandLine = (),
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> PtyHandle:
        """Starts a program on a terminal, by default the user's shell, and connects to it."""
        args = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        options = given(env=env, cwd=cwd, user=user, timeout_secs=timeout)
        request = {"args": args, "pty": {"cols": cols, "rows": rows}, **options}
        info = self._client.start_command(
            self._sandbox_id, cast(models.StartCommandRequest, request), request_timeout=request_timeout
        )
        return self.connect(info["id"])

    def connect(self, command_id: str, *, offset: int = 0) -> PtyHandle:
        """Connects to the terminal of a command, from an offset in its output. Several connections may be open."""
        return PtyHandle(self, self._commands.attach(command_id, offset=offset))

    def list(self, *, request_timeout: float | None = None) -> builtins.list[models.CommandInfo]:
        """Lists the commands that have a terminal."""
        commands = self._commands.list(request_timeout=request_timeout)
        return [info for info in commands if "pty" in info]

    def resize(self, command_id: str, size: models.PtySize, *, request_timeout: float | None = None) -> None:
        """Sets the size of a terminal. Programs in its foreground draw their screen again."""
        self._client.resize_pty(self._sandbox_id, command_id, size, request_timeout=request_timeout)

    def send_input(self, command_id: str, data: str | bytes, *, request_timeout: float | None = None) -> None:
        """Types into a terminal."""
        self._commands.send_stdin(command_id, data, request_timeout=request_timeout)

    def kill(self, command_id: str, *, request_timeout: float | None = None) -> bool:
        """Ends what runs on a terminal, and forgets it. False if there is none."""
        return self._commands.kill(command_id, request_timeout=request_timeout)


class PtyHandle:
    """A connection to a terminal. Either iterate over it or call `wait`, and only once.

    `with` disconnects at the end of its block, whatever happens in it.
    """

    def __init__(self, ptys: Ptys, handle: CommandHandle) -> None:
        self.id = handle.id
        self.pid = handle.pid
        self.offset: int | None = None
        """The offset of the output that was read so far, to connect again after a lost connection."""
        self._ptys = ptys
        self._handle = handle

    @property
    def exit(self) -> CommandExit | None:
        """The exit of the program; None while it runs."""
        return self._handle.exit

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.disconnect()

    def __iter__(self) -> Stream[OutputChunk]:
        for chunk in self._handle:
            self.offset = chunk.end if chunk.type == "gap" else chunk.offset + len(chunk.data)
            yield chunk

    def wait(self, *, on_data: DataHandler | None = None) -> CommandExit:
        """Reads to the end of the program. A non-zero exit code is a result."""
        for chunk in self:
            if chunk.type != "gap" and on_data is not None:
                on_data(chunk.data)
        return self.exit or CommandExit(None, None, timed_out=False)

    def send_input(self, data: str | bytes) -> None:
        """Types into the terminal."""
        self._ptys.send_input(self.id, data)

    def resize(self, size: models.PtySize) -> None:
        self._ptys.resize(self.id, size)

    def signal(self, signal: str | int) -> None:
        """Sends a signal to the program in the foreground."""
        self._handle.signal(signal)

    def disconnect(self) -> None:
        """Ends the connection. The program continues."""
        self._handle.__exit__(None, None, None)

    def kill(self) -> bool:
        """Ends the program, and forgets it."""
        return self._ptys.kill(self.id)
