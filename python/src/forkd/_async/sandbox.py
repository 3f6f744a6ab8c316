from __future__ import annotations

import builtins
import codecs
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Literal, cast

from typing_extensions import Self, Unpack

from .. import models
from .._errors import ForkdError
from .client import AsyncForkdClient, new_idempotency_key
from .commands import AsyncCommands
from .files import AsyncFiles
from .options import AsyncClientOptions, BranchOptions, client_from, given
from .platform import Stream, shielded
from .pty import AsyncPtys
from .snapshot import AsyncSnapshot

_GONE = frozenset({"not_found_sandbox", "sandbox_ended"})
_CLEAN_UP_SECS = 30.0


class AsyncSandbox:
    """A virtual machine that runs or is paused. `async with` kills it at the end of its block, whatever happens in it.

    All operations raise a ForkdError: `not_found_sandbox` if the sandbox is gone, `sandbox_ended` if it ended by itself,
    `sandbox_paused` if the sandbox is paused and so cannot answer.
    """

    def __init__(self, client: AsyncForkdClient, info: models.SandboxInfo) -> None:
        """Use `create`, `create_many`, `connect` or `list` to make one."""
        self.client = client
        self.info = info
        """The state when this object was made. `get_info` fetches the present state."""
        self.id = info["id"]
        self.commands = AsyncCommands(client, self.id)
        self.pty = AsyncPtys(client, self.id)
        self.files = AsyncFiles(client, self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.info['snapshot_tag']}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with shielded():
            try:
                await self.kill(request_timeout=_CLEAN_UP_SECS)
            except ForkdError:
                # The error of the block says more.
                if error is None:
                    raise

    @classmethod
    async def create(
        cls,
        snapshot_tag: str,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_timeout: Literal["kill", "pause"] | None = None,
        memory_limit_mib: int | None = None,
        network: models.NetworkPolicy | None = None,
        per_child_netns: bool | None = None,
        **options: Unpack[AsyncClientOptions],
    ) -> Self:
        """Starts one sandbox from a snapshot.

        `name` is accepted wherever an id is, and must be unique among the existing sandboxes. `timeout` is the time to live in
        seconds from now, rounded up to whole seconds; default: no limit. `on_timeout` is the action when it is over; default:
        `kill`. `network` replaces the rules that the snapshot was taken with.
        """
        [sandbox] = await cls.create_many(
            snapshot_tag,
            1,
            name=name,
            labels=labels,
            timeout=timeout,
            on_timeout=on_timeout,
            memory_limit_mib=memory_limit_mib,
            network=network,
            per_child_netns=per_child_netns,
            **options,
        )
        return sandbox

    @classmethod
    async def create_many(
        cls,
        snapshot_tag: str,
        n: int,
        *,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | None = None,
        on_timeout: Literal["kill", "pause"] | None = None,
        memory_limit_mib: int | None = None,
        network: models.NetworkPolicy | None = None,
        per_child_netns: bool | None = None,
        **options: Unpack[AsyncClientOptions],
    ) -> builtins.list[Self]:
        """Starts `n` sandboxes from a snapshot in one request: all or none. `name` is allowed only if `n` is 1.

        None is left behind if the call is cancelled or interrupted.
        """
        client = client_from(options)
        fields = given(
            name=name,
            labels=labels,
            ttl_secs=None if timeout is None else math.ceil(timeout),
            on_expire=on_timeout,
            memory_limit_mib=memory_limit_mib,
            network=network,
            per_child_netns=per_child_netns,
        )
        request = cast(models.CreateSandboxesRequest, {"snapshot_tag": snapshot_tag, "n": n, **fields})
        key = new_idempotency_key()
        try:
            infos = await client.create_sandboxes(
                request, idempotency_key=key, request_timeout=options.get("request_timeout")
            )
        except Exception:
            raise
        except BaseException:
            # The controller may have started them. With the same key it names them.
            with shielded(), suppress(ForkdError):
                for info in await client.create_sandboxes(request, idempotency_key=key, request_timeout=_CLEAN_UP_SECS):
                    await cls(client, info).kill(request_timeout=_CLEAN_UP_SECS)
            raise
        if len(infos) != n:
            raise ForkdError(
                "bad_response", f'Fork of "{snapshot_tag}": the reply has {len(infos)} sandboxes, not {n}.'
            )
        return [cls(client, info) for info in infos]

    @classmethod
    async def connect(cls, id_or_name: str, **options: Unpack[AsyncClientOptions]) -> Self:
        """Returns an existing sandbox, by id or name. A paused sandbox stays paused."""
        client = client_from(options)
        return cls(client, await client.get_sandbox(id_or_name, request_timeout=options.get("request_timeout")))

    async def kill(self, *, request_timeout: float | None = None) -> bool:
        """Ends the sandbox. False if the sandbox was already gone."""
        try:
            await self.client.delete_sandbox(self.id, request_timeout=request_timeout)
        except ForkdError as error:
            if error.code in _GONE:
                return False
            raise
        return True

    async def pause(self, *, request_timeout: float | None = None) -> models.SandboxInfo:
        """Stops the sandbox until it is resumed; its memory is kept. No effect if the sandbox is already paused."""
        return await self.client.pause_sandbox(self.id, request_timeout=request_timeout)

    async def resume(self, *, request_timeout: float | None = None) -> models.SandboxInfo:
        return await self.client.resume_sandbox(self.id, request_timeout=request_timeout)

    async def set_timeout(
        self,
        timeout: float | None,
        *,
        on_timeout: Literal["kill", "pause"] | None = None,
        request_timeout: float | None = None,
    ) -> models.SandboxInfo:
        """Sets the time to live, in seconds from now, in place of the present one. None: no limit."""
        ttl_secs = None if timeout is None else math.ceil(timeout)
        request = {"ttl_secs": ttl_secs, **given(on_expire=on_timeout)}
        return await self.client.update_sandbox(
            self.id, cast(models.UpdateSandboxRequest, request), request_timeout=request_timeout
        )

    async def get_info(self, *, request_timeout: float | None = None) -> models.SandboxInfo:
        return await self.client.get_sandbox(self.id, request_timeout=request_timeout)

    async def is_running(self, *, request_timeout: float | None = None) -> bool:
        """False if the sandbox is paused or gone."""
        try:
            info = await self.get_info(request_timeout=request_timeout)
        except ForkdError as error:
            if error.code in _GONE:
                return False
            raise
        return info.get("state") != "paused"

    async def stats(self, *, request_timeout: float | None = None) -> models.SandboxStats:
        """Returns resource usage since the start of the sandbox: CPU, memory, page faults."""
        return await self.client.sandbox_stats(self.id, request_timeout=request_timeout)

    async def logs(
        self,
        *,
        tail_bytes: int | None = None,
        follow: bool | None = None,
        request_timeout: float | None = None,
    ) -> Stream[str]:
        """Streams the guest's console as text.

        It begins with the last `tail_bytes` of existing output; default: 64 KiB. `follow` streams new output until the sandbox
        ends or the reader stops; default: False.
        """
        # All chunks share a decoder: a character may be split between two chunks.
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        chunks = self.client.sandbox_logs(
            self.id, tail_bytes=tail_bytes, follow=follow, request_timeout=request_timeout
        )
        try:
            async for chunk in chunks:
                if text := decoder.decode(chunk):
                    yield text
            if text := decoder.decode(b"", final=True):
                yield text
        finally:
            await chunks.aclose()

    async def eval(
        self, code: str, *, timeout: float | None = None, request_timeout: float | None = None
    ) -> models.EvalResponse:
        """Evaluates code in the warmed interpreter, which keeps its state between calls.

        An exception in the code is a result: `error` has it, and `traceback` its traceback. `timeout` bounds the evaluation, in
        seconds; default: 30.
        """
        request = {"code": code, **given(timeout_secs=timeout)}
        return await self.client.eval(self.id, cast(models.EvalRequest, request), request_timeout=request_timeout)

    async def ping(self, *, request_timeout: float | None = None) -> models.PingResponse:
        """Makes a round trip to the agent in the guest."""
        return await self.client.ping(self.id, request_timeout=request_timeout)

    async def get_url(self, port: int, *, expires_secs: int | None = None, request_timeout: float | None = None) -> str:
        """The URL of a service of the guest that speaks HTTP, for browsers and programs.

        Where the controller asks for tokens it is signed, and of use without one until it expires: after an hour, unless
        `expires_secs` says otherwise.
        """
        request: models.CreatePortUrlRequest = {"port": port}
        if expires_secs is not None:
            request["expires_secs"] = expires_secs
        return (await self.client.create_port_url(self.id, request, request_timeout=request_timeout))["url"]

    async def set_network(
        self, policy: models.NetworkPolicy, *, request_timeout: float | None = None
    ) -> models.SandboxInfo:
        """Changes what the sandbox may reach, as a whole. Open connections that are no longer allowed are reset.

        `unsupported` if its snapshot was built without a network device.
        """
        return await self.client.set_network(self.id, policy, request_timeout=request_timeout)

    async def memory(self, *, request_timeout: float | None = None) -> models.MemoryInfo:
        """Returns the memory that only this sandbox has and the memory that it shares with its siblings, in bytes."""
        return await self.client.memory(self.id, request_timeout=request_timeout)

    async def branch(
        self,
        *,
        tag: str | None = None,
        mode: Literal["full", "diff", "live"] | None = None,
        until: Literal["resumed", "ready", "durable"] = "ready",
        on_fallback: Callable[[ForkdError], object] | None = None,
        audit: bool | None = None,
        safety: Literal["standard", "strict"] | None = None,
        request_timeout: float | None = None,
    ) -> AsyncSnapshot:
        """Takes a snapshot of this instant. The sandbox keeps running.

        `tag`: default: made of the sandbox's id and the time. `mode`: default: `live`; on hosts without live branches `diff`,
        which copies the changes during the pause, and `on_fallback` is called with the reason. `until`: the state to wait for;
        `ready`: the snapshot can be forked. `audit` checks every page against a copy of memory made during the pause, which is
        longer for it; the branch fails if a page differs. `safety="strict"`: guest programs are frozen during the branch, and
        in a child until it has its own identity.
        """
        request = {"until": until, **given(tag=tag, audit=audit, safety=safety)}

        async def take(mode: str) -> models.SnapshotInfo:
            body = cast(models.BranchRequest, {**request, "mode": mode})
            return await self.client.branch(self.id, body, request_timeout=request_timeout)

        try:
            info = await take(mode or "live")
        except ForkdError as error:
            # `unsupported` is reported before the sandbox is touched.
            if mode is not None or error.code != "unsupported":
                raise
            if on_fallback is not None:
                on_fallback(error)
            info = await take("diff")
        return AsyncSnapshot(self.client, info)

    async def fork(self, n: int = 1, **options: Unpack[BranchOptions]) -> builtins.list[Self]:
        """Starts `n` sandboxes that continue from this instant: takes a branch, with the options of `branch`, and forks it.

        The branch stays: it is the children's `info["snapshot_tag"]`, more children can be started from it, and to remove it at
        once would mean to wait for the disk. `Snapshot.delete` and `Snapshot.prune` remove it, even while the children live.
        """
        branch = await self.branch(**options)
        return await self.create_many(branch.tag, n, client=self.client, request_timeout=options.get("request_timeout"))

    @classmethod
    async def list(
        cls,
        *,
        labels: Mapping[str, str] | None = None,
        state: Literal["running", "paused", "ended"] | None = None,
        name: str | None = None,
        snapshot_tag: str | None = None,
        workspace: str | None = None,
        **options: Unpack[AsyncClientOptions],
    ) -> builtins.list[Self]:
        """Lists sandboxes: all, or only those that carry all of these labels and have these properties."""
        client = client_from(options)
        infos = await client.list_sandboxes(
            label=None if labels is None else [f"{key}={value}" for key, value in labels.items()],
            state=state,
            name=name,
            snapshot_tag=snapshot_tag,
            workspace=workspace,
            request_timeout=options.get("request_timeout"),
        )
        return [cls(client, info) for info in infos]
