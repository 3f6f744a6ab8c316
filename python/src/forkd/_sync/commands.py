# Made by scripts/python-sdk.mjs from the file of this name in `_async`. Not to be edited.
from __future__ import annotations

import base64
import builtins
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Literal, TypeAlias, cast

from typing_extensions import Self

from .. import models
from .._errors import ForkdError, error_from_event
from .._output import CollectedOutput, CommandExit, CommandResult, Gap, Output, OutputChunk
from .client import ForkdClient
from .options import given
from .platform import RequestBody, Stream, shielded

CommandLine: TypeAlias = str | Sequence[str]
"""A program with its arguments, or a line for the guest's `/bin/sh`."""
OutputHandler: TypeAlias = Callable[[bytes], object]

_KILL_SECS = 30.0


class Commands:
    """The commands of one sandbox. A command belongs to the guest: it outlives this connection and survives a fork."""

    def __init__(self, client: ForkdClient, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id

    def run(
        self,
        command: CommandLine,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool | None = None,
        timeout: float | None = None,
        on_stdout: OutputHandler | None = None,
        on_stderr: OutputHandler | None = None,
        request_timeout: float | None = None,
    ) -> CommandResult:
        """Runs a command to its end and forgets it. A non-zero exit code is a result, not an error; so is `timed_out`.

        `timeout` is the time limit of the command in seconds, enforced in the guest; output until then is kept. Default: none.
        `request_timeout` bounds the whole call; default: no limit. The command is killed if the call is cancelled or
        interrupted.
        """
        handle = self.follow(
            command,
            env=env,
            cwd=cwd,
            user=user,
            stdin=stdin,
            timeout=timeout,
            on_disconnect="kill",
            request_timeout=request_timeout,
        )
        try:
            result = handle.wait(on_stdout=on_stdout, on_stderr=on_stderr)
        except BaseException:
            with shielded(), suppress(ForkdError):
                self.kill(handle.id, request_timeout=_KILL_SECS)
            raise
        self.kill(handle.id, request_timeout=_KILL_SECS)
        return result

    def follow(
        self,
        command: CommandLine,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool | None = None,
        timeout: float | None = None,
        on_disconnect: Literal["continue", "kill"] | None = None,
        request_timeout: float | None = None,
    ) -> CommandHandle:
        """Starts a command and follows its output.

        `on_disconnect`: the fate of the command if the reader ends first; default: `continue`. `kill` ends and forgets it.
        """
        request = _start_request(command, env, cwd, user, stdin, timeout, on_disconnect)
        events = self._client.start_command_events(self._sandbox_id, request, request_timeout=request_timeout)
        first: Any = next(events, None)
        if first is not None and first["type"] == "error":
            raise error_from_event(first)
        if first is None or first["type"] != "started":
            raise ForkdError(
                "bad_response", f"Command in {self._sandbox_id}: the stream does not begin with its start."
            )
        return CommandHandle(self._client, self._sandbox_id, first["id"], first["pid"], events)

    def start(
        self,
        command: CommandLine,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool | None = None,
        timeout: float | None = None,
        request_timeout: float | None = None,
    ) -> models.CommandInfo:
        """Starts a command and returns. The command keeps running by itself. `stdin` gives it a pipe for `send_stdin`."""
        request = _start_request(command, env, cwd, user, stdin, timeout, None)
        return self._client.start_command(self._sandbox_id, request, request_timeout=request_timeout)

    def attach(
        self, command_id: str, *, offset: int = 0, request_timeout: float | None = None
    ) -> CommandHandle:
        """Follows the output of a running or ended command from `offset`. `request_timeout` bounds the whole stream."""
        info = self._client.get_command(self._sandbox_id, command_id)
        events = self._client.command_output(
            self._sandbox_id, command_id, offset=offset, follow=True, request_timeout=request_timeout
        )
        return CommandHandle(self._client, self._sandbox_id, info["id"], info["pid"], events)

    def send_stdin(
        self,
        command_id: str,
        data: RequestBody,
        *,
        close: bool | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """Writes to the stdin of a command that was started with `stdin`. `close` closes it after the data."""
        self._client.write_command_stdin(
            self._sandbox_id, command_id, data, close=close, request_timeout=request_timeout
        )

    def signal(self, command_id: str, signal: str | int, *, request_timeout: float | None = None) -> None:
        """Sends a signal, given by number, or by name with or without `SIG`."""
        self._client.signal_command(self._sandbox_id, command_id, signal, request_timeout=request_timeout)

    def kill(self, command_id: str, *, request_timeout: float | None = None) -> bool:
        """Ends the command if it runs, and forgets it. False if the command or its sandbox does not exist."""
        try:
            self._client.delete_command(self._sandbox_id, command_id, request_timeout=request_timeout)
        except ForkdError as error:
            if error.code in {"not_found_command", "not_found_sandbox", "sandbox_ended"}:
                return False
            raise
        return True

    def list(self, *, request_timeout: float | None = None) -> builtins.list[models.CommandInfo]:
        """Lists commands that run, and commands that ended and were not forgotten."""
        return self._client.list_commands(self._sandbox_id, request_timeout=request_timeout)


class CommandHandle:
    """A command whose output is followed. Either iterate over the output or call `wait`, and only once.

    `with` stops following at the end of its block, whatever happens in it.
    """

    def __init__(
        self,
        client: ForkdClient,
        sandbox_id: str,
        id: str,
        pid: int,
        events: Stream[models.CommandEvent],
    ) -> None:
        self.id = id
        self.pid = pid
        self.exit: CommandExit | None = None
        """The exit of the command; None while the command runs."""
        self._commands = Commands(client, sandbox_id)
        self._events = events

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._events.close()

    def __iter__(self) -> Stream[OutputChunk]:
        try:
            for one in self._events:
                event = cast(dict[str, Any], one)
                kind = event["type"]
                if kind in {"stdout", "stderr"}:
                    yield Output(kind, event["offset"], base64.b64decode(event["data"]))
                elif kind == "gap":
                    yield Gap(event["from"], event["to"])
                elif kind == "exit":
                    self.exit = CommandExit(event["exit_code"], event["signal"], event["timed_out"])
                elif kind == "error":
                    raise error_from_event(event)
        finally:
            self._events.close()
        if self.exit is None:
            raise ForkdError(
                "stream_cut",
                f"Command {self.id}: its output ended before the command did.",
                hint="The command may still run. Attach to it again from where its output ended.",
            )

    def wait(
        self, *, on_stdout: OutputHandler | None = None, on_stderr: OutputHandler | None = None
    ) -> CommandResult:
        """Waits for the end. The handlers receive the output as bytes while it arrives."""
        stdout, stderr = CollectedOutput(), CollectedOutput()
        lost_bytes = 0
        for chunk in self:
            if isinstance(chunk, Gap):
                lost_bytes += chunk.end - chunk.start
                continue
            kept, handler = (stdout, on_stdout) if chunk.type == "stdout" else (stderr, on_stderr)
            kept.add(chunk.data)
            if handler is not None:
                handler(chunk.data)
        exit = self.exit or CommandExit(None, None, timed_out=False)
        return CommandResult(
            stdout=stdout.text(),
            stderr=stderr.text(),
            exit_code=exit.exit_code,
            signal=exit.signal,
            timed_out=exit.timed_out,
            truncated=stdout.dropped_bytes + stderr.dropped_bytes + lost_bytes > 0,
            stdout_dropped_bytes=stdout.dropped_bytes,
            stderr_dropped_bytes=stderr.dropped_bytes,
            lost_bytes=lost_bytes,
        )

    def send_stdin(
        self, data: RequestBody, *, close: bool | None = None, request_timeout: float | None = None
    ) -> None:
        self._commands.send_stdin(self.id, data, close=close, request_timeout=request_timeout)

    def signal(self, signal: str | int, *, request_timeout: float | None = None) -> None:
        self._commands.signal(self.id, signal, request_timeout=request_timeout)

    def kill(self, *, request_timeout: float | None = None) -> bool:
        return self._commands.kill(self.id, request_timeout=request_timeout)


def _start_request(
    command: CommandLine,
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
    stdin: bool | None,
    timeout: float | None,
    on_disconnect: str | None,
) -> models.StartCommandRequest:
    args = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    options = given(env=env, cwd=cwd, user=user, stdin=stdin, timeout_secs=timeout, on_disconnect=on_disconnect)
    return cast(models.StartCommandRequest, {"args": args, **options})
