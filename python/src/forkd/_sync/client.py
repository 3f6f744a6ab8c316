# Made by scripts/python-sdk.mjs from the file of this name in `_async`. Not to be edited.
from __future__ import annotations

import secrets
from types import TracebackType
from typing import Any, Literal

from typing_extensions import Self

from .. import models
from .._constants import EVAL_TIMEOUT_SECS_DEFAULT, EXEC_TIMEOUT_SECS_DEFAULT
from .connection import Connection
from .platform import RequestBody, Stream
from .transport import TIMEOUT_SECS_DEFAULT, Transport, RequestSpec, segment

_HEALTH_SECS = 5.0
_SLOW_SECS = 600.0
"""For operations that may take minutes: hundreds of forks, a branch that waits for the disk."""
_BUILD_SECS = 3600.0
"""For a build: an image is fetched, built, booted and warmed."""
_GRACE_SECS = 30.0
"""Time that a reply may take in addition to the command's own time limit."""


class ForkdClient:
    """The raw API: one method per route, with the types of the API.

    Every method takes `request_timeout` in seconds, which bounds the request with its retries; 0 is no limit. A reply that falls
    silent midway is given up after twice that at the latest. A refused connection is retried, except for bodies that can be sent
    only once. A lost reply, or a 502, 503 or 504, is retried only where that is safe: for GET, and for `create_snapshot`,
    `create_sandboxes`, its partial form and `branch`, which carry an Idempotency-Key. All raise ForkdError.
    """

    def __init__(self, *, url: str | None = None, socket: str | None = None, token: str | None = None) -> None:
        """Without `socket` or `url` (`http://host:port`, `https://…`, `unix:/path`; default: FORKD_URL) this is the controller of
        this user's data directory, which is started if none runs. `token`: the bearer token; default: FORKD_TOKEN.
        """
        self._transport = Transport(Connection(url=url, socket=socket, token=token))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def place(self) -> str:
        """The address of the controller, for messages."""
        return self._transport.connection.place

    def close(self) -> None:
        """Closes idle connections."""
        self._transport.connection.close()

    def health(self, *, request_timeout: float | None = None) -> models.Health:
        """Asks if the controller answers now. The only GET that is not retried."""
        spec = RequestSpec("GET", "/healthz", repeatable="never")
        return self._ask(spec, request_timeout, _HEALTH_SECS)

    def version(self, *, request_timeout: float | None = None) -> models.VersionInfo:
        return self._ask(RequestSpec("GET", "/version"), request_timeout)

    def host(self, *, request_timeout: float | None = None) -> models.HostInfo:
        return self._ask(RequestSpec("GET", "/v1/host"), request_timeout)

    def shutdown(
        self, *, sandboxes: Literal["kill"] | None = None, request_timeout: float | None = None
    ) -> models.ShutdownResponse:
        """Stops the controller. Only over the unix socket. `kill` first ends the sandboxes and the pager."""
        return self._ask(RequestSpec("POST", "/v1/shutdown", {"sandboxes": sandboxes}), request_timeout)

    def list_snapshots(self, *, request_timeout: float | None = None) -> list[models.SnapshotInfo]:
        return self._ask(RequestSpec("GET", "/v1/snapshots"), request_timeout)

    def get_snapshot(self, tag: str, *, request_timeout: float | None = None) -> models.SnapshotInfo:
        return self._ask(RequestSpec("GET", _snapshot(tag)), request_timeout)

    def get_snapshot_detail(self, tag: str, *, request_timeout: float | None = None) -> models.SnapshotInfoDetail:
        return self._ask(RequestSpec("GET", f"{_snapshot(tag)}/info"), request_timeout)

    def create_snapshot(
        self,
        request: models.CreateSnapshotRequest,
        *,
        idempotency_key: str | None = None,
        request_timeout: float | None = None,
    ) -> models.SnapshotInfo:
        return self._ask(_keyed("/v1/snapshots", request, idempotency_key), request_timeout, _BUILD_SECS)

    def create_snapshot_events(
        self, request: models.CreateSnapshotRequest, *, request_timeout: float | None = None
    ) -> Stream[models.SnapshotEvent]:
        """Creates a snapshot and reports progress. The last event is a result or an error."""
        spec = RequestSpec("POST", "/v1/snapshots", json=request)
        return self._transport.events(spec, _BUILD_SECS if request_timeout is None else request_timeout)

    def delete_snapshot(
        self,
        tag: str,
        *,
        cascade: bool | None = None,
        force: bool | None = None,
        request_timeout: float | None = None,
    ) -> None:
        self._ask(RequestSpec("DELETE", _snapshot(tag), {"cascade": cascade, "force": force}), request_timeout)

    def compact_snapshot(self, tag: str, to: str, *, request_timeout: float | None = None) -> models.SnapshotInfo:
        """Writes a copy of the snapshot that has its memory in one layer and needs no ancestors."""
        spec = RequestSpec("POST", f"{_snapshot(tag)}/compact", json={"to": to})
        return self._ask(spec, request_timeout, _SLOW_SECS)

    def export_snapshot(
        self, tag: str, request: models.ExportSnapshotRequest, *, request_timeout: float | None = None
    ) -> models.ExportSnapshotResponse:
        """Exports a snapshot as Firecracker files to a directory on the controller's host. Only over the unix socket."""
        spec = RequestSpec("POST", f"{_snapshot(tag)}/export", json=request)
        return self._ask(spec, request_timeout, _SLOW_SECS)

    def import_snapshot(
        self, tag: str, request: models.ImportSnapshotRequest, *, request_timeout: float | None = None
    ) -> models.SnapshotInfo:
        """Imports a snapshot from Firecracker files. Only over the unix socket."""
        spec = RequestSpec("POST", f"{_snapshot(tag)}/import", json=request)
        return self._ask(spec, request_timeout, _SLOW_SECS)

    def prune_snapshots(
        self, request: models.PruneSnapshotsRequest, *, request_timeout: float | None = None
    ) -> models.PruneSnapshotsResponse:
        return self._ask(RequestSpec("POST", "/v1/snapshots/prune", json=request), request_timeout)

    def list_sandboxes(self, *, request_timeout: float | None = None, **query: Any) -> list[models.SandboxInfo]:
        """`query`: `label` (a list of `key=value`), `state`, `name`, `snapshot_tag`, `workspace`."""
        return self._ask(RequestSpec("GET", "/v1/sandboxes", query), request_timeout)

    def get_sandbox(self, id: str, *, request_timeout: float | None = None) -> models.SandboxInfo:
        return self._ask(RequestSpec("GET", _sandbox(id)), request_timeout)

    def create_sandboxes(
        self,
        request: models.CreateSandboxesRequest,
        *,
        idempotency_key: str | None = None,
        request_timeout: float | None = None,
    ) -> list[models.SandboxInfo]:
        """A second request with the same `idempotency_key` and the same content returns the sandboxes of the first."""
        return self._ask(_keyed("/v1/sandboxes", request, idempotency_key), request_timeout, _SLOW_SECS)

    def create_sandboxes_partially(
        self,
        request: models.CreateSandboxesRequest,
        *,
        idempotency_key: str | None = None,
        request_timeout: float | None = None,
    ) -> models.PartialForkResponse:
        """Creates sandboxes with `partial`: if some fail, the others are kept. Each sandbox has its own result."""
        spec = _keyed("/v1/sandboxes", {**request, "partial": True}, idempotency_key)
        reply = self._ask(spec, request_timeout, _SLOW_SECS)
        if not isinstance(reply, list):
            return reply
        return {"results": [{"index": index, "sandbox": sandbox} for index, sandbox in enumerate(reply)]}

    def update_sandbox(
        self, id: str, request: models.UpdateSandboxRequest, *, request_timeout: float | None = None
    ) -> models.SandboxInfo:
        return self._ask(RequestSpec("PATCH", _sandbox(id), json=request), request_timeout)

    def pause_sandbox(self, id: str, *, request_timeout: float | None = None) -> models.SandboxInfo:
        """Stops the sandbox; its memory is kept. No effect if the sandbox is already paused."""
        return self._ask(RequestSpec("POST", f"{_sandbox(id)}/pause"), request_timeout)

    def resume_sandbox(self, id: str, *, request_timeout: float | None = None) -> models.SandboxInfo:
        return self._ask(RequestSpec("POST", f"{_sandbox(id)}/resume"), request_timeout)

    def sandbox_stats(self, id: str, *, request_timeout: float | None = None) -> models.SandboxStats:
        return self._ask(RequestSpec("GET", f"{_sandbox(id)}/stats"), request_timeout)

    def sandbox_logs(
        self,
        id: str,
        *,
        tail_bytes: int | None = None,
        follow: bool | None = None,
        request_timeout: float | None = None,
    ) -> Stream[bytes]:
        """Streams the guest's console: the last `tail_bytes`, and with `follow` also new output."""
        spec = RequestSpec("GET", f"{_sandbox(id)}/logs", {"tail_bytes": tail_bytes, "follow": follow})
        return self._transport.stream(spec, request_timeout or 0)

    def events(
        self, *, after: str | None = None, sandbox: str | None = None, request_timeout: float | None = None
    ) -> Stream[models.ControllerEvent]:
        """Streams events from now on, or after the event `after`. The stream ends with the connection; `Events` reconnects."""
        headers = {} if after is None else {"last-event-id": after}
        spec = RequestSpec("GET", "/v1/events", {"sandbox": sandbox}, headers)
        return self._transport.server_sent_events(spec, request_timeout or 0)

    def set_network(
        self, id: str, policy: models.NetworkPolicy, *, request_timeout: float | None = None
    ) -> models.SandboxInfo:
        return self._ask(RequestSpec("PUT", f"{_sandbox(id)}/network", json=policy), request_timeout)

    def create_port_url(
        self, id: str, request: models.CreatePortUrlRequest, *, request_timeout: float | None = None
    ) -> models.PortUrl:
        """The URL of a port, which is of use without a token until it expires."""
        return self._ask(RequestSpec("POST", f"{_sandbox(id)}/urls", json=request), request_timeout)

    def list_network_presets(self, *, request_timeout: float | None = None) -> list[models.NetworkPreset]:
        return self._ask(RequestSpec("GET", "/v1/network/presets"), request_timeout)

    def network_flows(
        self, *, sandbox: str | None = None, follow: bool | None = None, request_timeout: float | None = None
    ) -> Stream[models.NetworkFlow]:
        """Streams the latest connections and denials, and with `follow` those to come."""
        spec = RequestSpec("GET", "/v1/network/flows", {"sandbox": sandbox, "follow": follow})
        return self._transport.events(spec, request_timeout or 0)

    def list_workspaces(self, *, request_timeout: float | None = None) -> list[models.WorkspaceInfo]:
        return self._ask(RequestSpec("GET", "/v1/workspaces"), request_timeout)

    def get_workspace(self, name: str, *, request_timeout: float | None = None) -> models.WorkspaceInfo:
        return self._ask(RequestSpec("GET", _workspace(name)), request_timeout)

    def create_workspace(
        self, request: models.CreateWorkspaceRequest, *, request_timeout: float | None = None
    ) -> models.WorkspaceInfo:
        """Creates a workspace and starts its first sandbox."""
        return self._ask(RequestSpec("POST", "/v1/workspaces", json=request), request_timeout, _SLOW_SECS)

    def delete_workspace(self, name: str, *, request_timeout: float | None = None) -> None:
        """Ends the sandbox and removes the saved state. The original snapshot stays."""
        self._ask(RequestSpec("DELETE", _workspace(name)), request_timeout)

    def suspend_workspace(
        self,
        name: str,
        request: models.SuspendWorkspaceRequest | None = None,
        *,
        request_timeout: float | None = None,
    ) -> models.WorkspaceInfo:
        spec = RequestSpec("POST", f"{_workspace(name)}/suspend", json=request or {})
        return self._ask(spec, request_timeout, _SLOW_SECS)

    def resume_workspace(self, name: str, *, request_timeout: float | None = None) -> models.WorkspaceInfo:
        return self._ask(RequestSpec("POST", f"{_workspace(name)}/resume"), request_timeout, _SLOW_SECS)

    def delete_sandbox(self, id: str, *, request_timeout: float | None = None) -> None:
        self._ask(RequestSpec("DELETE", _sandbox(id)), request_timeout)

    def ping(self, id: str, *, request_timeout: float | None = None) -> models.PingResponse:
        return self._ask(RequestSpec("POST", f"{_sandbox(id)}/ping"), request_timeout)

    def exec(
        self, id: str, request: models.ExecRequest, *, request_timeout: float | None = None
    ) -> models.ExecResponse:
        default = request.get("timeout_secs", EXEC_TIMEOUT_SECS_DEFAULT) + _GRACE_SECS
        return self._ask(RequestSpec("POST", f"{_sandbox(id)}/exec", json=request), request_timeout, default)

    def eval(
        self, id: str, request: models.EvalRequest, *, request_timeout: float | None = None
    ) -> models.EvalResponse:
        default = request.get("timeout_secs", EVAL_TIMEOUT_SECS_DEFAULT) + _GRACE_SECS
        return self._ask(RequestSpec("POST", f"{_sandbox(id)}/eval", json=request), request_timeout, default)

    def branch(
        self,
        id: str,
        request: models.BranchRequest | None = None,
        *,
        idempotency_key: str | None = None,
        request_timeout: float | None = None,
    ) -> models.SnapshotInfo:
        spec = _keyed(f"{_sandbox(id)}/branch", request or {}, idempotency_key)
        return self._ask(spec, request_timeout, _SLOW_SECS)

    def memory(self, id: str, *, request_timeout: float | None = None) -> models.MemoryInfo:
        return self._ask(RequestSpec("GET", f"{_sandbox(id)}/memory"), request_timeout)

    def floor(self, id: str, *, request_timeout: float | None = None) -> models.FloorInfo:
        """Measures the lower bound of a branch's pause: pauses the sandbox as a branch does, and copies nothing."""
        return self._ask(RequestSpec("POST", f"{_sandbox(id)}/floor"), request_timeout)

    def start_command(
        self, id: str, request: models.StartCommandRequest, *, request_timeout: float | None = None
    ) -> models.CommandInfo:
        spec = RequestSpec("POST", f"{_sandbox(id)}/commands", json={**request, "follow": False})
        return self._ask(spec, request_timeout)

    def start_command_events(
        self, id: str, request: models.StartCommandRequest, *, request_timeout: float | None = None
    ) -> Stream[models.CommandEvent]:
        """Starts a command and follows it, without a time limit. `on_disconnect` says what happens if the reader stops."""
        spec = RequestSpec("POST", f"{_sandbox(id)}/commands", json={**request, "follow": True})
        return self._transport.events(spec, request_timeout or 0)

    def list_commands(self, id: str, *, request_timeout: float | None = None) -> list[models.CommandInfo]:
        return self._ask(RequestSpec("GET", f"{_sandbox(id)}/commands"), request_timeout)

    def get_command(
        self, id: str, command_id: str, *, request_timeout: float | None = None
    ) -> models.CommandInfo:
        return self._ask(RequestSpec("GET", _command(id, command_id)), request_timeout)

    def command_output(
        self,
        id: str,
        command_id: str,
        *,
        offset: int = 0,
        follow: bool = True,
        request_timeout: float | None = None,
    ) -> Stream[models.CommandEvent]:
        """Streams output from `offset`, and with `follow` also new output until the command ends."""
        spec = RequestSpec("GET", f"{_command(id, command_id)}/output", {"offset": offset, "follow": follow})
        return self._transport.events(spec, request_timeout or 0)

    def write_command_stdin(
        self,
        id: str,
        command_id: str,
        data: RequestBody,
        *,
        close: bool | None = None,
        request_timeout: float | None = None,
    ) -> None:
        spec = RequestSpec("POST", f"{_command(id, command_id)}/stdin", {"close": close}, raw=data)
        self._ask(spec, request_timeout)

    def signal_command(
        self, id: str, command_id: str, signal: str | int, *, request_timeout: float | None = None
    ) -> None:
        spec = RequestSpec("POST", f"{_command(id, command_id)}/signal", json={"signal": signal})
        self._ask(spec, request_timeout)

    def resize_pty(
        self, id: str, command_id: str, size: models.PtySize, *, request_timeout: float | None = None
    ) -> None:
        """Sets the size of the terminal of a command."""
        self._ask(RequestSpec("PUT", f"{_command(id, command_id)}/pty", json=size), request_timeout)

    def create_pty_ticket(
        self, id: str, command_id: str, *, request_timeout: float | None = None
    ) -> models.PtyTicket:
        """Makes a ticket with which a web page can connect to the terminal of a command, once."""
        return self._ask(RequestSpec("POST", f"{_command(id, command_id)}/pty/tickets"), request_timeout)

    def delete_command(self, id: str, command_id: str, *, request_timeout: float | None = None) -> None:
        """Ends the command if it runs, and forgets its output."""
        self._ask(RequestSpec("DELETE", _command(id, command_id)), request_timeout)

    def read_file(self, id: str, path: str, *, request_timeout: float | None = None) -> bytes:
        spec = RequestSpec("GET", f"{_sandbox(id)}/files", {"path": path})
        return self._transport.content(spec, request_timeout or 0)

    def read_file_stream(self, id: str, path: str, *, request_timeout: float | None = None) -> Stream[bytes]:
        return self._transport.stream(RequestSpec("GET", f"{_sandbox(id)}/files", {"path": path}), request_timeout or 0)

    def write_file(
        self,
        id: str,
        path: str,
        data: RequestBody,
        *,
        mode: str | None = None,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """Writes a file. `mode` is octal, such as `0755`. `user` owns what is new."""
        query = {"path": path, "mode": mode, "user": user}
        spec = RequestSpec("PUT", f"{_sandbox(id)}/files", query, raw=data)
        self._ask(spec, request_timeout, 0)

    def delete_file(
        self, id: str, path: str, *, recursive: bool | None = None, request_timeout: float | None = None
    ) -> None:
        spec = RequestSpec("DELETE", f"{_sandbox(id)}/files", {"path": path, "recursive": recursive})
        self._ask(spec, request_timeout)

    def stat_file(
        self, id: str, path: str, *, follow: bool | None = None, request_timeout: float | None = None
    ) -> models.FileStat:
        """Describes what is at a path; with `follow` what is behind symbolic links."""
        spec = RequestSpec("GET", f"{_sandbox(id)}/stat", {"path": path, "follow": follow})
        return self._ask(spec, request_timeout)

    def make_dir(
        self,
        id: str,
        path: str,
        *,
        mode: str | None = None,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """Makes a directory and those that lead to it, unless it exists.

        `mode` is octal; default `0755`. `user` owns what is new.
        """
        query = {"path": path, "mode": mode, "user": user}
        self._ask(RequestSpec("PUT", f"{_sandbox(id)}/dir", query), request_timeout)

    def watch_files(
        self, id: str, path: str, *, recursive: bool | None = None, request_timeout: float | None = None
    ) -> Stream[models.FileWatchEvent]:
        """Streams what happens to a file, or to the files of a directory; with `recursive` to all below it."""
        spec = RequestSpec("GET", f"{_sandbox(id)}/files/watch", {"path": path, "recursive": recursive})
        return self._transport.server_sent_events(spec, request_timeout or 0)

    def rename_file(self, id: str, from_path: str, to_path: str, *, request_timeout: float | None = None) -> None:
        spec = RequestSpec("POST", f"{_sandbox(id)}/rename", json={"from": from_path, "to": to_path})
        self._ask(spec, request_timeout)

    def list_dir(self, id: str, path: str, *, request_timeout: float | None = None) -> list[models.DirEntry]:
        return self._ask(RequestSpec("GET", f"{_sandbox(id)}/dir", {"path": path}), request_timeout)

    def _ask(
        self, spec: RequestSpec, request_timeout: float | None, default: float = TIMEOUT_SECS_DEFAULT
    ) -> Any:
        return self._transport.json(spec, default if request_timeout is None else request_timeout)


def new_idempotency_key() -> str:
    """Returns 128 random bits in hex."""
    return secrets.token_hex(16)


def _keyed(path: str, request: object, key: str | None) -> RequestSpec:
    """A POST with an Idempotency-Key: the controller recognises a retry and executes the request once."""
    headers = {"idempotency-key": key or new_idempotency_key()}
    return RequestSpec("POST", path, headers=headers, json=request, repeatable="keyed")


def _sandbox(id: str) -> str:
    return f"/v1/sandboxes/{segment(id)}"


def _command(id: str, command_id: str) -> str:
    return f"{_sandbox(id)}/commands/{segment(command_id)}"


def _workspace(name: str) -> str:
    return f"/v1/workspaces/{segment(name)}"


def _snapshot(tag: str) -> str:
    return f"/v1/snapshots/{segment(tag)}"
