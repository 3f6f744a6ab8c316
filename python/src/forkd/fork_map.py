"""One function over many items, each in a sandbox of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ._async.sandbox import AsyncSandbox
from ._async.snapshot import AsyncSnapshot

Item = TypeVar("Item")
Value = TypeVar("Value")

_CONCURRENCY_DEFAULT = 16
_LIFE_SECS_DEFAULT = 3600.0


@dataclass(frozen=True)
class MapResult(Generic[Item, Value]):
    """The outcome of one item. Exactly one of `value` and `error` is meant: `error` is None if the function returned."""

    index: int
    """The position of the item, from 0."""
    item: Item
    value: Value | None = None
    error: Exception | None = None


async def fork_map(
    template: str | AsyncSnapshot,
    function: Callable[[AsyncSandbox, Item], Awaitable[Value]],
    items: Iterable[Item],
    *,
    concurrency: int = _CONCURRENCY_DEFAULT,
    on_progress: Callable[[int, int | None], object] | None = None,
    timeout: float | None = _LIFE_SECS_DEFAULT,
    **options: Any,
) -> AsyncIterator[MapResult[Item, Value]]:
    """Calls `function(sandbox, item)` for each item, in a sandbox that is forked for it, and yields the results as they come.

    At most `concurrency` sandboxes exist at a time, and items are taken only as sandboxes become free. An exception of the
    function, or of the fork, is the `error` of its result: the other items continue. `on_progress` is called with the number
    of results and the number of items, if `items` has a length. `options` are those of `AsyncSandbox.create`.

    Every sandbox is ended: when its function returns or raises, when the loop over the results is left, and when the task is
    cancelled. `timeout` is the time to live of each sandbox in seconds, so that they end even if this program is killed.
    """
    if concurrency < 1:
        raise ValueError(f"The concurrency is {concurrency}. It is at least 1.")
    if isinstance(template, AsyncSnapshot):
        tag, options = template.tag, {"client": template.client, **options}
    else:
        tag = template
    total = len(items) if isinstance(items, Sized) else None
    done_count = 0

    async def one(index: int, item: Item) -> MapResult[Item, Value]:
        try:
            async with await AsyncSandbox.create(tag, timeout=timeout, **options) as sandbox:
                return MapResult(index, item, value=await function(sandbox, item))
        except Exception as error:
            return MapResult(index, item, error=error)

    left = enumerate(items)
    running: set[asyncio.Task[MapResult[Item, Value]]] = set()
    try:
        while True:
            while len(running) < concurrency and (entry := next(left, None)) is not None:
                running.add(asyncio.create_task(one(*entry)))
            if not running:
                return
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                done_count += 1
                if on_progress is not None:
                    on_progress(done_count, total)
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
