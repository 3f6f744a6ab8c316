# Made by scripts/python-sdk.mjs from the file of this name in `_async`. Not to be edited.
"""Finds the controller of a data directory, or starts it."""

from __future__ import annotations

import os
import socket as sockets
import subprocess
from time import monotonic

import httpx

from .._constants import IDLE_EXIT_SECS_DEFAULT
from .._deadline import Deadline
from .._errors import ForkdError
from .._places import LocalPaths, controller_program
from .platform import Lock, sleep

_START_SECS_MAX = 30.0
_WINNER_SECS_MAX = 5.0
"""If our controller exits because the data directory is taken, the controller that took it may still be starting."""
_FAILURE_EXIT_CODE = 1
_POLL_SECS_MIN, _POLL_SECS_MAX = 0.005, 0.1
"""Bounds of the poll interval for a starting controller. The interval is a tenth of the time since the start."""
_PROBE_SECS_MAX = 5.0
_LOG_TAIL_BYTES = 2_000
_ABSENT = frozenset({"ENOENT", "ECONNREFUSED"})

_started: list[subprocess.Popen[bytes]] = []
"""Controllers outlive this process. They are kept here so that Python does not warn of them."""


class Starter:
    """Starts the controller of a data directory when a request finds none.

    Nothing is locked: of two controllers that start at once, one fails to bind the socket and exits. Its starter finds the other.
    """

    def __init__(self, paths: LocalPaths, *, autostart: bool = True) -> None:
        self._paths = paths
        self._autostart = autostart
        self._lock = Lock()
        self._answered: float | None = None

    def answered(self) -> None:
        self._answered = monotonic()

    def before(self, is_stream: bool, deadline: Deadline) -> None:
        """A body that can be sent only once needs a controller that runs."""
        if is_stream and not self._is_known():
            self.ensure(deadline)

    def after(self, code: str | None, deadline: Deadline) -> bool:
        """Returns whether there is a controller now for a request that found none."""
        # A controller that has just answered is not replaced: the caller may wait for it to restart. One that was idle for
        # longer may have ended by itself.
        if code not in _ABSENT or self._is_known():
            return False
        self.ensure(deadline)
        return True

    def ensure(self, deadline: Deadline) -> bool:
        """Returns whether this call has started the controller."""
        with self._lock:
            started = False
            if not self._answers():
                if not self._autostart:
                    raise ForkdError(
                        "controller_not_running",
                        f"No controller runs on {self._paths.socket}.",
                        hint="Any call that needs a controller starts one; `forkd-controller serve` starts one by hand.",
                    )
                started = self._start(deadline)
            self.answered()
            return started

    def _is_known(self) -> bool:
        return self._answered is not None and monotonic() - self._answered < IDLE_EXIT_SECS_DEFAULT

    def _answers(self) -> bool:
        """Raises if the socket accepts and does not answer: a second controller would not help one in trouble."""
        if not _is_listening(str(self._paths.socket)):
            return False
        transport = httpx.HTTPTransport(uds=str(self._paths.socket), verify=False)
        with httpx.Client(transport=transport) as client:
            try:
                reply = client.get("http://localhost/healthz", timeout=_PROBE_SECS_MAX)
            except httpx.TimeoutException as error:
                raise ForkdError(
                    "controller_failed",
                    f"The controller on {self._paths.socket} did not answer within {_PROBE_SECS_MAX:g} s.",
                    hint=f"Its log is {self._paths.log}.",
                ) from error
            except httpx.TransportError:
                return False
            return reply.is_success

    def _start(self, deadline: Deadline) -> bool:
        """Returns whether the controller that answers is ours, not the winner of a race."""
        child, log_start = _launch(self._paths)
        _started[:] = [child, *(other for other in _started if other.poll() is None)]
        began = monotonic()
        end = began + _START_SECS_MAX
        is_up = False
        code: int | None = None
        try:
            while monotonic() < end:
                deadline.check()
                is_up = self._answers()
                if is_up:
                    return child.poll() is None
                if code is None and (code := child.poll()) is not None:
                    end = min(end, monotonic() + (_WINNER_SECS_MAX if code == _FAILURE_EXIT_CODE else 0))
                sleep(min(max((monotonic() - began) / 10, _POLL_SECS_MIN), _POLL_SECS_MAX))
            raise _start_failure(self._paths, code, log_start)
        finally:
            if not is_up and child.poll() is None:
                child.terminate()


def _is_listening(path: str) -> bool:
    """Only connects and sends no request, so that polling costs next to nothing while the controller starts."""
    with sockets.socket(sockets.AF_UNIX) as connection:
        connection.setblocking(False)
        try:
            connection.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _launch(paths: LocalPaths) -> tuple[subprocess.Popen[bytes], int]:
    program = controller_program()
    try:
        paths.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as error:
        raise ForkdError(
            "controller_failed",
            f"The data directory {paths.data_dir} cannot be used: {error}.",
            hint="Choose another directory with FORKD_DATA_DIR, or run as the user who owns this one.",
        ) from error
    try:
        log_start = os.fstat(log).st_size
        where = ["--data-dir", str(paths.data_dir), "--socket", str(paths.socket)]
        life = ["--no-tcp", "--idle-exit-secs", str(IDLE_EXIT_SECS_DEFAULT)]
        # The new session keeps Ctrl-C here from reaching the controller. The cwd is set so that no directory of the caller
        # stays busy.
        child = subprocess.Popen(  # noqa: S603
            [*program, "serve", *where, *life],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=paths.data_dir,
            start_new_session=True,
        )
    except OSError as error:
        raise ForkdError("controller_failed", f"The controller could not be started: {error}.") from error
    finally:
        os.close(log)
    return child, log_start


def _start_failure(paths: LocalPaths, code: int | None, log_start: int) -> ForkdError:
    with paths.log.open("rb") as log:
        log.seek(max(log_start, log.seek(0, os.SEEK_END) - _LOG_TAIL_BYTES))
        tail = log.read(_LOG_TAIL_BYTES).decode(errors="replace").strip()
    if code is None:
        what = f"did not answer within {_START_SECS_MAX:g} s"
    else:
        what = f"ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}"
    message = f"The controller {what}:\n{tail}" if tail else f"The controller {what}."
    return ForkdError("controller_failed", message, hint=f"Its log is {paths.log}.")
