from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import cast

from typing_extensions import Self

from .. import models
from .._output import CommandExit, OutputChunk
from .client import AsyncForkdClient
from .commands import AsyncCommandHandle, AsyncCommands, CommandLine
from .options import given
from .platform import Stream

DataHandler = Callable[[bytes], object]


class AsyncPtys:
    """The terminals of one sandbox. A terminal belongs to the guest: it outlives this connection and survives a fork.

    Its output is followed over HTTP: a reader who stops reading holds the program up, as with a command.
    """

    def __init__(self, client: AsyncForkdClient, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._commands = AsyncCommands(client, sandbox_id)

    async def create(
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
    ) -> AsyncPtyHandle:
        """Starts a program on a terminal, by default the user's shell, and connects to it."""
        args = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
        options = given(env=env, cwd=cwd, user=user, timeout_secs=timeout)
        request = {"args": args, "pty": {"cols": cols, "rows": rows}, **options}
        info = await self._client.start_command(
            self._sandbox_id, cast(models.StartCommandRequest, request), request_timeout=request_timeout
        )
        return await self.connect(info["id"])

    async def connect(self, command_id: str, *, offset: int = 0) -> AsyncPtyHandle:
        """Connects to the terminal of a command, from an offset in its output. Several connections may be open."""
        return AsyncPtyHandle(self, await self._commands.attach(command_id, offset=offset))

    async def list(self, *, request_timeout: float | None = None) -> builtins.list[models.CommandInfo]:
        """Lists the commands that have a terminal."""
        commands = await self._commands.list(request_timeout=request_timeout)
        return [info for info in commands if "pty" in info]

    async def resize(self, command_id: str, size: models.PtySize, *, request_timeout: float | None = None) -> None:
        """Sets the size of a terminal. Programs in its foreground draw their screen again."""
        await self._client.resize_pty(self._sandbox_id, command_id, size, request_timeout=request_timeout)

    async def send_input(self, command_id: str, data: str | bytes, *, request_timeout: float | None = None) -> None:
        """Types into a terminal."""
        await self._commands.send_stdin(command_id, data, request_timeout=request_timeout)

    async def kill(self, command_id: str, *, request_timeout: float | None = None) -> bool:
        """Ends what runs on a terminal, and forgets it. False if there is none."""
        return await self._commands.kill(command_id, request_timeout=request_timeout)


class AsyncPtyHandle:
    """A connection to a terminal. Either iterate over it or call `wait`, and only once.

    `async with` disconnects at the end of its block, whatever happens in it.
    """

    def __init__(self, ptys: AsyncPtys, handle: AsyncCommandHandle) -> None:
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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.disconnect()

    async def __aiter__(self) -> Stream[OutputChunk]:
        async for chunk in self._handle:
            self.offset = chunk.end if chunk.type == "gap" else chunk.offset + len(chunk.data)
            yield chunk

    async def wait(self, *, on_data: DataHandler | None = None) -> CommandExit:
        """Reads to the end of the program. A non-zero exit code is a result."""
        async for chunk in self:
            if chunk.type != "gap" and on_data is not None:
                on_data(chunk.data)
        return self.exit or CommandExit(None, None, timed_out=False)

    async def send_input(self, data: str | bytes) -> None:
        """Types into the terminal."""
        await self._ptys.send_input(self.id, data)

    async def resize(self, size: models.PtySize) -> None:
        await self._ptys.resize(self.id, size)

    async def signal(self, signal: str | int) -> None:
        """Sends a signal to the program in the foreground."""
        await self._handle.signal(signal)

    async def disconnect(self) -> None:
        """Ends the connection. The program continues."""
        await self._handle.__aexit__(None, None, None)

    async def kill(self) -> bool:
        """Ends the program, and forgets it."""
        return await self._ptys.kill(self.id)
