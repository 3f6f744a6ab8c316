from __future__ import annotations

import builtins

from .. import models
from .._errors import ForkdError, error_from_event
from .client import AsyncForkdClient
from .platform import RequestBody, Stream


class AsyncFiles:
    """The files of one sandbox. Paths are absolute, in the guest.

    All operations raise a ForkdError: `not_found_file`, `permission_denied`, `is_a_directory`, ….
    """

    def __init__(self, client: AsyncForkdClient, sandbox_id: str) -> None:
        self._client = client
        self._sandbox_id = sandbox_id

    async def read(self, path: str, *, request_timeout: float | None = None) -> str:
        """Reads a file as UTF-8 text."""
        return (await self.read_bytes(path, request_timeout=request_timeout)).decode(errors="replace")

    async def read_bytes(self, path: str, *, request_timeout: float | None = None) -> bytes:
        return await self._client.read_file(self._sandbox_id, path, request_timeout=request_timeout)

    def read_stream(self, path: str, *, request_timeout: float | None = None) -> Stream[bytes]:
        """Streams a file of any size in chunks."""
        return self._client.read_file_stream(self._sandbox_id, path, request_timeout=request_timeout)

    async def write(
        self,
        path: str,
        data: RequestBody,
        *,
        mode: str | None = None,
        user: str | None = None,
        request_timeout: float | None = None,
    ) -> None:
        """Writes a file. Missing parent directories are created, existing content is replaced.

        `mode` is octal; default `0644`. `user` owns what is new; default root.
        """
        await self._client.write_file(
            self._sandbox_id, path, data, mode=mode, user=user, request_timeout=request_timeout
        )

    async def stat(
        self, path: str, *, follow: bool | None = None, request_timeout: float | None = None
    ) -> models.FileStat:
        """Describes what is at a path: the fields of `list`, `uid`, `gid`, and the `target` of a symbolic link.

        With `follow` it describes what is behind links.
        """
        return await self._client.stat_file(self._sandbox_id, path, follow=follow, request_timeout=request_timeout)

    async def make_dir(
        self, path: str, *, mode: str | None = None, user: str | None = None, request_timeout: float | None = None
    ) -> None:
        """Makes a directory and those that lead to it, unless it exists.

        `mode` is octal; default `0755`. `user` owns what is new; default root.
        """
        await self._client.make_dir(self._sandbox_id, path, mode=mode, user=user, request_timeout=request_timeout)

    async def rename(self, from_path: str, to_path: str, *, request_timeout: float | None = None) -> None:
        """Renames a file or a directory. A file at the new path is replaced."""
        await self._client.rename_file(self._sandbox_id, from_path, to_path, request_timeout=request_timeout)

    async def watch(
        self, path: str, *, recursive: bool | None = None, request_timeout: float | None = None
    ) -> Stream[models.FileChangeEvent]:
        """Watches a file or a directory; with `recursive` also what is below it.

        The first event is `ready`: what happens after it is reported. The loop ends when the path itself is removed or renamed,
        and the watch ends with the loop. An event `overflow` reports that others are lost: list the directory again. Raises if
        the guest cannot be watched any more.
        """
        events = self._client.watch_files(self._sandbox_id, path, recursive=recursive, request_timeout=request_timeout)
        last = ""
        try:
            async for event in events:
                if event["type"] == "error":
                    raise error_from_event(event)
                last = event["type"]
                yield event
        finally:
            await events.aclose()
        if last != "remove":
            raise ForkdError("stream_cut", f"Watch of {path}: the stream was cut off.")

    async def exists(self, path: str, *, request_timeout: float | None = None) -> bool:
        """True if the path exists, as a file or a directory."""
        try:
            await self.stat(path, follow=True, request_timeout=request_timeout)
        except ForkdError as error:
            if error.code in {"not_found_file", "not_a_directory"}:
                return False
            raise
        return True

    async def remove(self, path: str, *, recursive: bool | None = None, request_timeout: float | None = None) -> bool:
        """Removes a file or a directory. False if it did not exist. A directory that is not empty needs `recursive`."""
        try:
            await self._client.delete_file(self._sandbox_id, path, recursive=recursive, request_timeout=request_timeout)
        except ForkdError as error:
            if error.code == "not_found_file":
                return False
            raise
        return True

    async def list(self, path: str, *, request_timeout: float | None = None) -> builtins.list[models.DirEntry]:
        """Lists a directory: `name`, `type`, `size` in bytes, `mode` in octal, `mtime_unix` in seconds."""
        return await self._client.list_dir(self._sandbox_id, path, request_timeout=request_timeout)
