# Made by scripts/python-sdk.mjs from the file of this name in `_async`. Not to be edited.
from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

from typing_extensions import TypedDict

from .. import models
from .._errors import ForkdError
from .._places import cache_key
from .client import ForkdClient
from .platform import loop_token


class ClientOptions(TypedDict, total=False):
    """Tells a call that has no object yet its controller: an existing client, or the options to make one.

    `request_timeout` bounds the request with its retries, in seconds; 0: no limit. The default depends on the route.
    """

    client: ForkdClient | None
    url: str | None
    socket: str | None
    token: str | None
    request_timeout: float | None


class CreateOptions(TypedDict, total=False):
    """What `create` and `create_many` say of a sandbox."""

    name: str | None
    labels: Mapping[str, str] | None
    timeout: float | None
    on_timeout: Literal["kill", "pause"] | None
    memory_limit_mib: int | None
    network: models.NetworkPolicy | None
    per_child_netns: bool | None


class BranchOptions(TypedDict, total=False):
    """What `branch` takes."""

    tag: str | None
    mode: Literal["full", "diff", "live"] | None
    until: Literal["resumed", "ready", "durable"]
    on_fallback: Callable[[ForkdError], object] | None
    audit: bool | None
    safety: Literal["standard", "strict"] | None
    request_timeout: float | None


_last: tuple[tuple[str, int, object], ForkdClient] | None = None
"""The client of the last such call, and its options. Calls to the same controller share its connections."""


def client_from(options: ClientOptions) -> ForkdClient:
    global _last  # noqa: PLW0603
    if unknown := options.keys() - ClientOptions.__annotations__.keys():
        raise TypeError(f"There is no keyword argument '{min(unknown)}'.")
    if client := options.get("client"):
        return client
    url, socket, token = options.get("url"), options.get("socket"), options.get("token")
    # Connections are not shared with a forked process, or with another event loop.
    key = (cache_key(url, socket, token), os.getpid(), loop_token())
    if _last is None or _last[0] != key:
        _last = (key, ForkdClient(url=url, socket=socket, token=token))
    return _last[1]


def given(**fields: Any) -> dict[str, Any]:
    """The fields of a request that the caller gave."""
    return {name: value for name, value in fields.items() if value is not None}
