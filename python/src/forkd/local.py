"""The controller of a data directory on this host: finds it, or starts it."""

from __future__ import annotations

import os
from dataclasses import dataclass

from ._async.client import AsyncForkdClient
from ._async.local import AsyncStarter
from ._deadline import Deadline
from ._places import LocalPaths, controller_program, default_data_dir, local_paths
from ._sync.client import ForkdClient
from ._sync.local import Starter

__all__ = [
    "AsyncLocalController",
    "LocalController",
    "LocalPaths",
    "controller_program",
    "default_data_dir",
    "ensure_controller",
    "ensure_controller_async",
    "local_paths",
]

_ENSURE_SECS = 60.0


@dataclass(frozen=True)
class LocalController:
    client: ForkdClient
    paths: LocalPaths
    started: bool
    """True if this call has started the controller."""


@dataclass(frozen=True)
class AsyncLocalController:
    client: AsyncForkdClient
    paths: LocalPaths
    started: bool
    """True if this call has started the controller."""


def ensure_controller(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    socket: str | None = None,
    token: str | None = None,
    autostart: bool = True,
) -> LocalController:
    """Finds the controller of a data directory, or starts it. Without `autostart` a missing one is `controller_not_running`."""
    paths = local_paths(data_dir, socket)
    started = Starter(paths, autostart=autostart).ensure(_deadline(paths))
    return LocalController(ForkdClient(socket=str(paths.socket), token=token), paths, started)


async def ensure_controller_async(
    *,
    data_dir: str | os.PathLike[str] | None = None,
    socket: str | None = None,
    token: str | None = None,
    autostart: bool = True,
) -> AsyncLocalController:
    """The asynchronous form of `ensure_controller`."""
    paths = local_paths(data_dir, socket)
    started = await AsyncStarter(paths, autostart=autostart).ensure(_deadline(paths))
    return AsyncLocalController(AsyncForkdClient(socket=str(paths.socket), token=token), paths, started)


def _deadline(paths: LocalPaths) -> Deadline:
    return Deadline(_ENSURE_SECS, f"Controller on {paths.socket}")
