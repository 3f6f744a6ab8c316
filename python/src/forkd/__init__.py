"""Python client of forkd-controller: microVM sandboxes that fork and branch while they run.

`Sandbox`, `Snapshot`, `Workspace` and `Events` each have an asynchronous form with the same methods: `AsyncSandbox`, ….
`ForkdClient` has one method per route of the API. `Controller`, `ControllerError` and, in `forkd.compat`, `Sandbox` are as in
the package that had this name before.
"""

from . import models
from ._async.client import AsyncForkdClient
from ._async.commands import AsyncCommandHandle, AsyncCommands
from ._async.events import AsyncEvents
from ._async.files import AsyncFiles
from ._async.options import AsyncClientOptions
from ._async.pty import AsyncPtyHandle, AsyncPtys
from ._async.sandbox import AsyncSandbox
from ._async.snapshot import AsyncBuilt, AsyncSnapshot
from ._async.workspace import AsyncWorkspace
from ._constants import VERSION as __version__
from ._errors import AuthenticationError, ConflictError, ForkdError, NotFoundError, TimeoutError
from ._output import CommandExit, CommandResult, Gap, Output, OutputChunk
from ._sync.client import ForkdClient
from ._sync.commands import CommandHandle, Commands
from ._sync.events import Events
from ._sync.files import Files
from ._sync.options import ClientOptions
from ._sync.pty import PtyHandle, Ptys
from ._sync.sandbox import Sandbox
from ._sync.snapshot import Built, Snapshot
from ._sync.workspace import Workspace
from .compat import BranchMode, Controller, ControllerError
from .fork_map import MapResult, fork_map

__all__ = [
    "AsyncBuilt",
    "AsyncClientOptions",
    "AsyncCommandHandle",
    "AsyncCommands",
    "AsyncEvents",
    "AsyncFiles",
    "AsyncForkdClient",
    "AsyncPtyHandle",
    "AsyncPtys",
    "AsyncSandbox",
    "AsyncSnapshot",
    "AsyncWorkspace",
    "AuthenticationError",
    "BranchMode",
    "Built",
    "ClientOptions",
    "CommandExit",
    "CommandHandle",
    "CommandResult",
    "Commands",
    "ConflictError",
    "Controller",
    "ControllerError",
    "Events",
    "Files",
    "ForkdClient",
    "ForkdError",
    "Gap",
    "MapResult",
    "NotFoundError",
    "Output",
    "OutputChunk",
    "PtyHandle",
    "Ptys",
    "Sandbox",
    "Snapshot",
    "TimeoutError",
    "Workspace",
    "__version__",
    "fork_map",
    "models",
]
