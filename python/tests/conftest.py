from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from forkd import AsyncForkdClient, ForkdClient

Ask = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Calls a method of either client: `ask(peer.url, "ping", "sb-1")`. Returns the events of a stream as a list."""

    def ask_sync(url: str, method: str, *args: Any, **options: Any) -> Any:
        with ForkdClient(url=url, token=options.pop("token", None)) as client:
            reply = getattr(client, method)(*args, **options)
            return list(reply) if hasattr(reply, "send") else reply

    async def ask_async(url: str, method: str, *args: Any, **options: Any) -> Any:
        async with AsyncForkdClient(url=url, token=options.pop("token", None)) as client:
            reply = getattr(client, method)(*args, **options)
            return [event async for event in reply] if hasattr(reply, "asend") else await reply

    def ask(url: str, method: str, *args: Any, **options: Any) -> Any:
        if request.param == "sync":
            return ask_sync(url, method, *args, **options)
        return asyncio.run(ask_async(url, method, *args, **options))

    return ask
