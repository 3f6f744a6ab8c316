# Made by scripts/python-sdk.mjs from the file of this name in `_async`. Not to be edited.
from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from typing_extensions import Self, Unpack

from .. import models
from .._errors import ForkdError, TimeoutError, error_from_event
from .client import ForkdClient
from .options import ClientOptions, CreateOptions, client_from, given
from .platform import sleep

if TYPE_CHECKING:
    from .sandbox import Sandbox

_POLL_SECS = 0.05
_WAIT_SECS_DEFAULT = 600.0
"""Long enough for gigabytes to be written to disk."""


class Built(NamedTuple):
    snapshot: Snapshot
    times: dict[str, float]
    """Times of the stages in milliseconds: `build_ms`, `boot_ms`, `warm_ms`, `snapshot_ms`."""


class Snapshot:
    """A named point that sandboxes start from: a template, or a branch of a sandbox.

    All operations raise a ForkdError, such as `not_found_snapshot`.
    """

    def __init__(self, client: ForkdClient, info: models.SnapshotInfo) -> None:
        """Use `create`, `get` or `list` to make one."""
        self.client = client
        self.info = info
        """The state when this object was made. `get_info` fetches the present state."""
        self.tag = info["tag"]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.tag}>"

    @classmethod
    def create(
        cls,
        request: models.CreateSnapshotRequest,
        *,
        on_progress: Callable[[models.SnapshotEventProgress], object] | None = None,
        **options: Unpack[ClientOptions],
    ) -> Built:
        """Builds the image, boots it, warms it up, and takes the snapshot. This takes minutes if the image is not built yet.

        `request` has the fields of `POST /v1/snapshots`, such as `tag`, `source`, `warm` and `mem_mib`.
        """
        client = client_from(options)
        events = client.create_snapshot_events(request, request_timeout=options.get("request_timeout"))
        try:
            for one in events:
                event = cast(dict[str, Any], one)
                if event["type"] == "error":
                    raise error_from_event(event)
                if event["type"] == "result":
                    times = {name: value for name, value in event.items() if name.endswith("_ms")}
                    return Built(cls(client, event["snapshot"]), times)
                if on_progress is not None:
                    on_progress(cast(models.SnapshotEventProgress, event))
        finally:
            events.close()
        raise ForkdError("stream_cut", f'Snapshot "{request["tag"]}": the stream ended before the snapshot was made.')

    @classmethod
    def get(cls, tag: str, **options: Unpack[ClientOptions]) -> Self:
        client = client_from(options)
        return cls(client, client.get_snapshot(tag, request_timeout=options.get("request_timeout")))

    @classmethod
    def prune(
        cls,
        *,
        older_than: float | None = None,
        keep: int | None = None,
        dry_run: bool | None = None,
        **options: Unpack[ClientOptions],
    ) -> models.PruneSnapshotsResponse:
        """Removes branches that are too old or too many. Templates, and branches that others need, stay.

        `older_than`: remove branches older than this, in seconds. `keep`: keep this many of the newest branches of each
        template. `dry_run`: only report which branches would be removed.
        """
        older_than_secs = None if older_than is None else math.ceil(older_than)
        request = given(older_than_secs=older_than_secs, keep=keep, dry_run=dry_run)
        return client_from(options).prune_snapshots(
            cast(models.PruneSnapshotsRequest, request), request_timeout=options.get("request_timeout")
        )

    def fork(
        self, n: int = 1, *, request_timeout: float | None = None, **options: Unpack[CreateOptions]
    ) -> builtins.list[Sandbox]:
        """Starts `n` sandboxes from this snapshot in one request: all or none. `options` are those of `create_many`."""
        from .sandbox import Sandbox  # noqa: PLC0415

        return Sandbox.create_many(
            self.tag, n, client=self.client, request_timeout=request_timeout, **options
        )

    def get_info(self, *, request_timeout: float | None = None) -> models.SnapshotInfo:
        return self.client.get_snapshot(self.tag, request_timeout=request_timeout)

    def detail(self, *, request_timeout: float | None = None) -> models.SnapshotInfoDetail:
        """Returns sizes in bytes, ancestors and dependents."""
        return self.client.get_snapshot_detail(self.tag, request_timeout=request_timeout)

    def delete(
        self,
        *,
        cascade: bool | None = None,
        force: bool | None = None,
        request_timeout: float | None = None,
    ) -> bool:
        """False if the snapshot did not exist. Raises `has_dependents` if it has branches and neither option is set.

        `cascade` deletes snapshots that were branched from this one too. `force` keeps them; they can still be forked.
        """
        try:
            self.client.delete_snapshot(self.tag, cascade=cascade, force=force, request_timeout=request_timeout)
        except ForkdError as error:
            if error.code == "not_found_snapshot":
                return False
            raise
        return True

    def rebuild(
        self,
        *,
        on_progress: Callable[[models.SnapshotEventProgress], object] | None = None,
        request_timeout: float | None = None,
    ) -> Built:
        """Builds a template again, from what it was built from, and replaces it: for one that this host cannot restore any more.

        Raises `unsupported` if that is not known.
        """
        build = (self.detail(request_timeout=request_timeout)).get("build")
        if build is None:
            source = self.info.get("branched_from")
            why = f"it is a branch of sandbox {source}" if source else "it does not say what it was built from"
            raise ForkdError(
                "unsupported",
                f'Snapshot "{self.tag}" cannot be built again: {why}.',
                hint="Build a template with `forkd from-image`.",
            )
        request = {**build, "tag": self.tag, "replace": True}
        return self.create(
            cast(models.CreateSnapshotRequest, request),
            on_progress=on_progress,
            client=self.client,
            request_timeout=request_timeout,
        )

    def compact(self, to: str, *, request_timeout: float | None = None) -> Self:
        """Writes a copy under the tag `to`, with all memory in one layer. The copy needs none of the ancestors."""
        info = self.client.compact_snapshot(self.tag, to, request_timeout=request_timeout)
        return type(self)(self.client, info)

    def wait_until(self, until: Literal["ready", "durable"], *, request_timeout: float | None = None) -> Self:
        """Waits until a snapshot is ready or durable, and returns its new state.

        `request_timeout` bounds the whole wait, in seconds; default: 600. Raises `branch_failed` and the reason if the snapshot
        failed.
        """
        seconds = _WAIT_SECS_DEFAULT if request_timeout is None else request_timeout
        end = monotonic() + (seconds or math.inf)
        while True:
            left = end - monotonic()
            if left <= 0:
                raise TimeoutError("request_timeout", f'Snapshot "{self.tag}" {until}: not within {seconds:g} s.')
            info = self.client.get_snapshot(self.tag, request_timeout=0 if left == math.inf else left)
            if info["status"] == "failed":
                reason = info.get("error", "no reason was given")
                raise ForkdError("branch_failed", f'Snapshot "{self.tag}" failed: {reason}')
            if info["status"] == "ready" and (until == "ready" or info.get("durable") is not False):
                return type(self)(self.client, info)
            sleep(_POLL_SECS)

    @classmethod
    def list(cls, **options: Unpack[ClientOptions]) -> builtins.list[Self]:
        """Lists all snapshots, including those that are being written and those that failed."""
        client = client_from(options)
        infos = client.list_snapshots(request_timeout=options.get("request_timeout"))
        return [cls(client, info) for info in infos]
