# Made by scripts/python-sdk.mjs from the file of this name in `_async`. Not to be edited.
from __future__ import annotations

import builtins
from collections.abc import Mapping
from typing import cast

from typing_extensions import Self, Unpack

from .. import models
from .._errors import ForkdError
from .client import ForkdClient
from .options import ClientOptions, client_from, given
from .sandbox import Sandbox


class Workspace:
    """A named sandbox that outlives its VM: suspended, it is a snapshot; resumed, a fork of that snapshot.

    All operations raise a ForkdError, such as `not_found_workspace`.
    """

    def __init__(self, client: ForkdClient, info: models.WorkspaceInfo) -> None:
        """Use `create`, `get` or `list` to make one."""
        self.client = client
        self.info = info
        """The state when this object was made. `get_info` fetches the present state."""
        self.name = info["name"]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    @classmethod
    def create(
        cls,
        name: str,
        snapshot_tag: str,
        *,
        labels: Mapping[str, str] | None = None,
        memory_limit_mib: int | None = None,
        per_child_netns: bool | None = None,
        **options: Unpack[ClientOptions],
    ) -> Self:
        """Creates a workspace and starts its sandbox from a snapshot. Raises `workspace_exists` if the name is taken."""
        client = client_from(options)
        fields = given(labels=labels, memory_limit_mib=memory_limit_mib, per_child_netns=per_child_netns)
        request = cast(models.CreateWorkspaceRequest, {"name": name, "snapshot_tag": snapshot_tag, **fields})
        info = client.create_workspace(request, request_timeout=options.get("request_timeout"))
        return cls(client, info)

    @classmethod
    def get(cls, name: str, **options: Unpack[ClientOptions]) -> Self:
        client = client_from(options)
        return cls(client, client.get_workspace(name, request_timeout=options.get("request_timeout")))

    def suspend(self, *, request_timeout: float | None = None) -> Self:
        """Saves the sandbox as a snapshot on disk and ends it. Raises `workspace_not_running` if there is no sandbox."""
        info = self.client.suspend_workspace(self.name, request_timeout=request_timeout)
        return type(self)(self.client, info)

    def resume(self, *, request_timeout: float | None = None) -> Self:
        """Starts a sandbox that continues from the instant of the suspension."""
        info = self.client.resume_workspace(self.name, request_timeout=request_timeout)
        return type(self)(self.client, info)

    def delete(self, *, request_timeout: float | None = None) -> bool:
        """Ends the sandbox and removes the saved state. The original snapshot stays. False if the workspace did not exist."""
        try:
            self.client.delete_workspace(self.name, request_timeout=request_timeout)
        except ForkdError as error:
            if error.code == "not_found_workspace":
                return False
            raise
        return True

    def get_info(self, *, request_timeout: float | None = None) -> models.WorkspaceInfo:
        return self.client.get_workspace(self.name, request_timeout=request_timeout)

    def sandbox(self, *, request_timeout: float | None = None) -> Sandbox:
        """Returns the present sandbox. Raises `workspace_not_running` if there is none."""
        info = self.get_info(request_timeout=request_timeout)
        id = info.get("live_sandbox_id")
        if id is None:
            raise ForkdError(
                "workspace_not_running",
                f'Workspace "{self.name}" has no sandbox: it is {info["status"]}.',
                hint="Resume the workspace first.",
            )
        return Sandbox.connect(id, client=self.client, request_timeout=request_timeout)

    @classmethod
    def list(cls, **options: Unpack[ClientOptions]) -> builtins.list[Self]:
        client = client_from(options)
        infos = client.list_workspaces(request_timeout=options.get("request_timeout"))
        return [cls(client, info) for info in infos]
